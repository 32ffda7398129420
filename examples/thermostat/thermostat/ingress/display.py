import json


def __init__(hub):
    # The providers that this plugin accepts. Without this line: its own name, which is the same here.
    hub.ingress.display.ACCT = ["display"]


async def publish(hub, ctx, routing_key, body):
    """Show one event; ``ctx.acct`` is what the profile says."""
    text = f"{routing_key:18} {json.loads(body)['celsius']:.1f}"
    print(f"[ {text:{ctx.acct.get('width', 24)}}]", flush=True)
