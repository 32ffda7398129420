import asyncio
import pytest
from tests.event.transports.behaviour import *
from tests.evbus.kit import new_hub, running
from dataclasses import dataclass
from evbus.api import event, bus
@pytest.mark.parametrize("durable,per,own", [(False,False,0),(True,False,0),(False,True,0),(False, False, 1)])
@pytest.mark.parametrize("what", ["amqp","amqp-default-ex","amqp-queue", "stomp","stomp-topic","stomp-ex","amq","amq-topic","amq-vt","amqp1","amqp1-4","amqp1-ex"])
def test_it(request, unique, tmp_path, what, durable, per, own):
    r=lambda n: request.getfixturevalue(n)
    if what.startswith("amqp1-4"): n=r("rabbitmq4")
    elif what.startswith("amq-") or what=="amq": n=r("activemq")
    else: n=r("rabbitmq")
    a=f"amqp://guest:guest@{n.host}:{getattr(n,'port',0)}/"
    st=f"stomp://{n.user}:{n.password}@{n.host}:{n.stomp_port}/"
    prof={"amqp":{"amqp":{"default":{"url":a,"exchange":{"name":unique+"-ex"}}}},
     "amqp-default-ex":{"amqp":{"default":{"url":a}}},
     "amqp-queue":{"amqp":{"default":{"url":a,"queue":unique+"q","routing_key":unique+"q"}}},
     "stomp":{"stomp":{"default":{"url":st}}},
     "stomp-topic":{"stomp":{"default":{"url":st,"destination":"/topic/{routing_key}"}}},
     "stomp-ex":{"stomp":{"default":{"url":st,"destination":"/exchange/amq.topic/{routing_key}"}}},
     "amq":{"stomp":{"default":{"url":st}}},
     "amq-topic":{"stomp":{"default":{"url":st,"destination":"/topic/{routing_key}"}}},
     "amq-vt":{"stomp":{"default":{"url":st,"destination":"/topic/VirtualTopic.{routing_key}"}}},
     "amqp1":{"amqp1":{"default":{"url":a}}},
     "amqp1-4":{"amqp1":{"default":{"url":a}}},
     "amqp1-ex":{"amqp1":{"default":{"url":a,"address":"/exchange/amq.topic/{routing_key}"}}},
    }[what]
    kind=order(unique,durable=durable)
    async def main():
        hub=new_hub(dead_store=tmp_path/"d", drain_timeout=2)
        i1=Inbox(kind,name="one",per_process=per); i2=Inbox(kind,name="two",per_process=per)
        i1.listen(hub)
        if own: i2.listen(hub)
        tag=("RESULT", what, "durable" if durable else "", "per" if per else "", "two" if own else "")
        try:
          async with running(hub, prof):
            await hub.event.init.send(kind(1))
            try: print(*tag, (await asyncio.wait_for(i1.next(),2)).number, end=" ")
            except asyncio.TimeoutError: print(*tag,"LOST", end=" ")
            if own:
                try: print((await asyncio.wait_for(i2.next(),1)).number)
                except asyncio.TimeoutError: print("LOST2")
            else: print()
        except Exception as e: print(*tag, type(e).__name__, e)
    asyncio.run(main())
