async def publish(hub, ctx, routing_key, body):
    text = f"{routing_key} {body.decode()}"
    print(text.upper(), flush=True)
