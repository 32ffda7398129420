"""Configuration for pop-config. Literals only: POP executes this file by itself."""

CONFIG = {
    "config": {"default": None, "os": "EVBUS_CONFIG", "help": "A configuration file in YAML"},
    "profiles": {
        "default": None,
        "os": "EVBUS_PROFILES",
        "help": "The file of profiles: plain YAML, or encrypted by acct when a key is given; in a "
        "configuration file also the profiles themselves",
    },
    "acct_file": {"default": None, "os": "ACCT_FILE", "help": "The same as --profiles, by its name in acct"},
    "acct_key": {
        "default": None,
        "os": "ACCT_KEY",
        "sensitive": True,
        "help": "The key of a profiles file encrypted by acct; better given as ACCT_KEY",
    },
    "plugin_dirs": {
        "default": None,
        "os": "EVBUS_PLUGIN_DIRS",
        "help": "Folders whose subfolders (ingress, egress, handler, listener, pipeline, ...) hold plugins",
    },
    "listen_to": {
        "default": None,
        "os": "EVBUS_LISTEN_TO",
        "help": "Installed packages whose listeners, handlers and components join this program, * for all; "
        "default: the package of the program itself",
    },
    "listeners": {
        "default": None,
        "os": "EVBUS_LISTENERS",
        "help": "Modules whose functions and classes with @event_listener listen, such as shop.listeners; a "
        "package stands for all modules in it; they are looked for in the current folder, too",
    },
    "serialize_plugin": {
        "default": "json",
        "os": "EVBUS_SERIALIZE_PLUGIN",
        "help": "The plugin that encodes bodies: json, msgpack, init (text)",
    },
    "json_types": {
        "default": None,
        "os": "EVBUS_JSON_TYPES",
        "help": "Content types that are read as JSON, such as application/vnd.shop+json",
    },
    "json_fallback": {
        "default": "error",
        "os": "EVBUS_JSON_FALLBACK",
        "help": "What json does with values of events that have no form: error, or repr as in pop-evbus",
    },
    "msgpack_content_type": {
        "default": "application/msgpack",
        "os": "EVBUS_MSGPACK_CONTENT_TYPE",
        "help": "What msgpack calls its bodies: application/msgpack, application/vnd.msgpack (IANA) or "
        "application/x-msgpack (kombu, Celery)",
    },
    "serial_plugin": {
        "default": "json",
        "help": "The later name of serialize_plugin in pop-evbus",
    },
    "pipeline": {
        "default": None,
        "os": "EVBUS_PIPELINE",
        "help": "Pipeline plugins in their order, such as trace stamp; default: all that are dropped in",
    },
    "error_callback_ref": {
        "default": None,
        "help": "A function on the hub that is told of every event that was given up",
    },
    "queue_limit": {
        "default": 100000,
        "os": "EVBUS_QUEUE_LIMIT",
        "help": "Most events on the bus; 0 for any number",
    },
    "queue_bytes": {
        "default": 268435456,
        "os": "EVBUS_QUEUE_BYTES",
        "help": "Most bytes of bodies on the bus; 0 for any number",
    },
    "full_policy": {
        "default": "raise",
        "os": "EVBUS_FULL_POLICY",
        "help": "What put_nowait does when the bus is full: raise, drop_oldest, drop_newest",
    },
    "max_body": {
        "default": 1048576,
        "os": "EVBUS_MAX_BODY",
        "help": "Most bytes of one encoded body; 0 for any size",
    },
    "drain_timeout": {
        "default": 20.0,
        "os": "EVBUS_DRAIN_TIMEOUT",
        "help": "Seconds that a stop may take to deliver what is queued; at the end of an input: seconds "
        "without a delivery",
    },
    "dead_store": {
        "default": None,
        "os": "EVBUS_DEAD_STORE",
        "help": "The file of events that were given up; default: one for each program and folder, in evbus/ "
        "in the user's state folder",
    },
    "dead_store_bytes": {
        "default": 268435456,
        "help": "Most bytes of that file before it is rotated",
    },
    "event_source": {
        "default": None,
        "os": "EVBUS_EVENT_SOURCE",
        "help": "The CloudEvents source that the pipeline plugin stamp sets; default: /<host>/<program>",
    },
    "event_mode": {
        "default": "binary",
        "os": "EVBUS_EVENT_MODE",
        "help": "What stamp makes of events: binary adds headers, structured writes CloudEvents in JSON",
    },
    "engine_workers": {
        "default": 100,
        "os": "EVBUS_ENGINE_WORKERS",
        "help": "How many handlers each router of the dispatcher runs at once; 0 for any number",
    },
    "dispatch_backlog": {
        "default": 10000,
        "help": "Messages that may wait for a handler in each router before senders wait; 0 for any number",
    },
    "services": {
        "default": None,
        "os": "EVBUS_SERVICES",
        "help": "Where services are, and how they are called: a YAML file with registry, channels and server",
    },
    "service_timeout": {
        "default": 30.0,
        "os": "EVBUS_SERVICE_TIMEOUT",
        "help": "Seconds that a call of a service may take, where neither it nor its interface says so",
    },
    "sign_keys": {
        "default": None,
        "os": "EVBUS_SIGN_KEYS",
        "sensitive": True,
        "help": "Keys of the pipeline plugin sign, id:secret or @file each: the first signs, all verify",
    },
    "sign_tolerance": {
        "default": 300.0,
        "os": "EVBUS_SIGN_TOLERANCE",
        "help": "Seconds for which the signature of an event is good",
    },
    "sign_limit": {
        "default": 1000000,
        "help": "Most signatures that are remembered so that no event is replayed, some 150 bytes each",
    },
    "compress_with": {
        "default": "auto",
        "os": "EVBUS_COMPRESS_WITH",
        "help": "How the pipeline plugin compress compresses: zstd, zlib, auto (zstd where it is installed)",
    },
    "compress_over": {
        "default": 1024,
        "os": "EVBUS_COMPRESS_OVER",
        "help": "Bytes beyond which the pipeline plugin compress compresses a body",
    },
    "dedupe_window": {
        "default": 3600.0,
        "os": "EVBUS_DEDUPE_WINDOW",
        "help": "Seconds for which the pipeline plugin dedupe remembers what was handled",
    },
    "dedupe_limit": {
        "default": 100000,
        "os": "EVBUS_DEDUPE_LIMIT",
        "help": "Most events that the pipeline plugin dedupe remembers",
    },
    "set": {
        "default": None,
        "help": "An option of a plugin of your own, as name=value; may be given several times",
    },
    "input": {"default": None, "help": "A file of lines; default, and -: standard input"},
    "socket": {"default": None, "help": "Listen on a Unix socket at this path for lines"},
    "body_key": {
        "default": None,
        "help": "For --format json: the key whose value is the body; default: all of the line is",
    },
    "from": {
        "default": None,
        "help": "Consume from this profile (or provider.name) instead; what comes in goes to --profile",
    },
    "body": {"default": None, "help": "The event's body in JSON; - reads it from standard input"},
    "routing_key": {"default": None, "help": "The event's routing key; for run: of those that name none"},
    "profile": {
        "default": "default",
        "help": "The event's profile; for run: of those that name none, and of what --from consumes",
    },
    "header": {"default": None, "help": "A header, as name=value; may be given several times"},
    "store": {"default": None, "help": "The dead store; default: the option dead_store"},
    "all": {"default": False, "help": "List the dead stores of all programs that were told no file"},
    "rate": {"default": 1.0, "help": "Events a second; 0 for as fast as possible; default: 1"},
    "count": {"default": 0, "help": "How many events (of --from); 0, the default, for ever"},
    "quiet": {"default": False, "help": "No status line and no closing table"},
    "subsystem": {"default": None, "help": "Only the plugins of this subsystem"},
    "events": {
        "default": None,
        "help": "Modules whose classes with @event are shown, such as shop.events, besides those that "
        "listeners listen to; they are looked for in the current folder, too",
    },
    "interfaces": {
        "default": None,
        "help": "Modules, files or folders that have the interfaces with @service, such as shop.interfaces, "
        "besides those that folders component/ implement; they are looked for in the current folder, too",
    },
    "components": {
        "default": None,
        "help": "Folders, files and modules whose implementations are started: a folder that has a folder "
        "component/, another folder of files, shop.py, or a module such as shop.impl; they are looked for in "
        "the current folder, too",
    },
    "port": {
        "default": None,
        "help": "The port of the HTTP server, 0 for any that is free; default: that of --services, or 8000, "
        "but none where --services has a channel over a broker",
    },
    "host": {
        "default": None,
        "help": "The address that it listens on; default: that of --services, or 127.0.0.1",
    },
    "method": {
        "default": None,
        "help": "The method, Interface.method or component:service:method, its name on the wire; behind it "
        "its arguments: name=text, which is JSON where the type is no single value; name:=JSON; text by its "
        "place; - or @file for an object of JSON that has all of them. Of a stream name=- or name=@file, "
        "with an item of JSON a line",
    },
    "channel": {
        "default": None,
        "help": "The channel to call over; default: the first of the registry, with --address dispatch-json",
    },
    "address": {
        "default": None,
        "help": "Where to call, such as http://127.0.0.1:8000, whatever the registry says",
    },
    "timeout": {
        "default": None,
        "help": "call: seconds that it may take, of a stream each item; default: as its interface says, or "
        "30. services: seconds that a server has to answer; default: 3",
    },
    "watch": {
        "default": False,
        "help": "Look again every 2 seconds, until Ctrl-C; where it is no terminal, a line for each change",
    },
    "json": {"default": False, "help": "Write JSON, in one line"},
    "output": {"default": None, "help": "The file to write; default, and -: standard output"},
    "format": {
        "default": None,
        "help": "run, tail: what a line of the input is: events (the default; a JSON array is a batch), "
        "lines (the line is the body) or json (its JSON is); asyncapi, openapi: json (the default) or yaml; "
        "graph: text (the default), dot or svg. Without it the ending of the output file says which",
    },
    "title": {"default": None, "help": "The title of the document; default: Events, or Services"},
    "api_version": {"default": "1.0.0", "help": "The version of what the document describes"},
}

CLI_CONFIG = {
    "config": {"options": ["-c"], "subcommands": ["_global_"]},
    "profiles": {
        "options": ["-p"],
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "asyncapi",
            "graph",
            "call",
        ],
    },
    "acct_key": {
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "asyncapi",
            "graph",
            "call",
        ]
    },
    "plugin_dirs": {
        "nargs": "+",
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "plugins",
            "call",
            "services",
            "asyncapi",
            "graph",
            "openapi",
        ],
    },
    "listen_to": {
        "nargs": "+",
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "plugins",
            "call",
            "services",
            "asyncapi",
            "graph",
            "openapi",
        ],
    },
    "listeners": {
        "action": "extend",
        "nargs": "+",
        "subcommands": ["listen", "serve", "run", "tail", "demo", "put", "replay", "asyncapi", "graph"],
    },
    "set": {
        "action": "append",
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "plugins",
            "call",
            "services",
            "asyncapi",
            "graph",
            "openapi",
        ],
    },
    "serialize_plugin": {
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "asyncapi",
            "graph",
        ]
    },
    "pipeline": {
        "nargs": "+",
        "subcommands": [
            "listen",
            "serve",
            "run",
            "tail",
            "demo",
            "put",
            "check",
            "replay",
            "call",
            "asyncapi",
            "graph",
        ],
    },
    "drain_timeout": {
        "type": float,
        "subcommands": ["listen", "serve", "run", "tail", "demo", "put", "replay"],
    },
    "dead_store": {
        "subcommands": ["listen", "serve", "run", "tail", "demo", "put", "check", "dead", "replay"]
    },
    "input": {"positional": True, "nargs": "?", "subcommands": ["run", "tail"]},
    "socket": {"subcommands": ["run", "tail"]},
    "from": {"action": "extend", "nargs": "+", "subcommands": ["run", "tail"]},
    "body": {"positional": True, "subcommands": ["put"]},
    "body_key": {"subcommands": ["run", "tail"]},
    "routing_key": {"options": ["-k"], "subcommands": ["put", "demo", "run", "tail"]},
    "profile": {"subcommands": ["run", "tail", "put", "demo", "asyncapi", "graph"]},
    "header": {"action": "append", "subcommands": ["put"]},
    "rate": {"type": float, "subcommands": ["demo"]},
    "count": {"type": int, "subcommands": ["run", "tail", "demo"]},
    "quiet": {
        "action": "store_true",
        "options": ["-q"],
        "subcommands": ["listen", "serve", "run", "tail", "demo", "put", "replay"],
    },
    "store": {"positional": True, "nargs": "?", "subcommands": ["replay", "dead"]},
    "all": {"action": "store_true", "subcommands": ["dead"]},
    "subsystem": {"positional": True, "nargs": "?", "subcommands": ["plugins"]},
    "events": {"action": "extend", "nargs": "+", "subcommands": ["asyncapi", "graph"]},
    "interfaces": {"action": "extend", "nargs": "+", "subcommands": ["call", "asyncapi", "graph", "openapi"]},
    "services": {"subcommands": ["serve", "call", "services", "check", "asyncapi"]},
    "watch": {"action": "store_true", "subcommands": ["services"]},
    "json": {"action": "store_true", "subcommands": ["services"]},
    "method": {"positional": True, "nargs": "*", "subcommands": ["call"]},
    "channel": {"subcommands": ["call"]},
    "address": {"subcommands": ["call"]},
    "timeout": {"type": float, "subcommands": ["call", "services"]},
    "components": {"positional": True, "nargs": "*", "subcommands": ["serve"]},
    "port": {"type": int, "subcommands": ["serve"]},
    "host": {"subcommands": ["serve"]},
    "output": {"options": ["-o"], "subcommands": ["asyncapi", "graph", "openapi"]},
    "format": {"subcommands": ["run", "tail", "asyncapi", "graph", "openapi"]},
    "title": {"subcommands": ["asyncapi", "openapi"]},
    "api_version": {"subcommands": ["asyncapi", "openapi"]},
}

SUBCOMMANDS = {
    "run": {
        "help": "Read events from lines and deliver them",
        "desc": "Read events as JSON lines, or what else --format says, from a file, from standard input or "
        "a Unix socket, or consume them from the profiles that --from names, deliver them to the profiles "
        "that match, and say at the end what became of them. What is consumed is acknowledged when it is "
        "delivered; what is not stays with its source. At the end of the input it goes on as long as "
        "anything was delivered in the last --drain-timeout seconds. Ctrl-C or SIGTERM drains for so long; "
        "a second one stops at once. Exit codes: "
        "0 everything was "
        "delivered, 1 something was not, 2 a mistake in the options, profiles or plugins, 3 a line of the "
        "input was refused, 130 stopped at once by a second signal.",
    },
    "tail": {
        "help": "Read events as run does, and print what reaches the internal queues",
        "desc": "Read events as 'evbus run' does and print every body that reaches an internal queue, behind "
        "its routing key. Without profiles every event goes to the internal queue of its routing key. With "
        "--from, which takes out of a queue what is printed, the profiles need one of the provider internal "
        "that matches --profile (default): internal: {default: {}}. Exit codes: those of 'evbus run'.",
    },
    "listen": {
        "help": "Run the listeners of modules and of plugins",
        "desc": "Hand what comes in through the profiles to the listeners in the modules that --listeners "
        "names and in the folders listener/ of the plugins, deliver what they send, and say at the end what "
        "became of it. Ctrl-C or SIGTERM takes nothing more and lets them end what they are at; a second one "
        "stops at once. Exit codes: 0 the stop left nothing, 1 it left something, 2 a mistake in options, "
        "modules, profiles or plugins, 130 stopped at once by a second signal.",
    },
    "serve": {
        "help": "Start the components of folders and modules, and let others call them",
        "desc": "Start the components in the folders, files and modules that are named, and in the folders "
        "component/ of --plugin-dirs and --listen-to, with an HTTP server, and say where they are called. "
        "With --profiles a bus delivers what they send, and hands events to listeners, as 'evbus listen' "
        "does. Ctrl-C or SIGTERM takes no more calls and lets those under way end; a second one stops at "
        "once. Exit codes: 0 the stop left nothing, 1 a component could not be started, the port is taken, "
        "or the stop cut calls off, 2 a mistake in options, modules, profiles or plugins, 130 stopped at "
        "once by a second signal.",
    },
    "call": {
        "help": "Call a method of a service, and print its result",
        "desc": "Call a method of a service in another process, and print its result as JSON; of a stream "
        "each item in a line, as it comes. The interface is found in what --interfaces names, and says of "
        "which types the arguments are; without it, the method is called by its name on the wire, and an "
        "argument that is JSON is JSON. Exit codes: 0 there is a result, 1 the method raised something, or "
        "was not reached, 2 a mistake in method, arguments, options, modules or settings, 130 stopped by "
        "Ctrl-C.",
    },
    "services": {
        "help": "List who is where, and how healthy",
        "desc": "List the components that the registry of --services knows, where they are called, and how "
        "they are: servers are asked for /health, all at once, and have --timeout seconds. With --watch it "
        "goes on until Ctrl-C or SIGTERM. Exit codes: 0 all of them answer and none has an error, or --watch "
        "was ended, 1 one is away or has an error, or the registry is away, 2 a mistake in options or "
        "settings.",
    },
    "put": {
        "help": "Put one event on the bus and deliver it",
        "desc": "Put one event on the bus and deliver it to the profiles that match. Exit codes: 0 all of "
        "them have it, 1 one of them has it not, or none matches, 2 a mistake in the body, options, profiles "
        "or plugins, 3 the event was refused, 130 stopped at once by a second signal.",
    },
    "check": {
        "help": "Check options, plugins, profiles and services, and try every destination",
        "desc": "Check the options, the plugins and the profiles, open every destination, and print a table; "
        "with --services also the registry, the channels, and the components of folders component/. Exit "
        "codes: 0 all is well, 1 a destination, the registry or a channel cannot be opened, 2 there is a "
        "mistake to mend.",
    },
    "plugins": {
        "help": "List every plugin by subsystem, with its file and its state",
        "desc": "List every plugin by subsystem, with its file and its state, and what is wrong with the "
        "broken ones. Exit codes: 0 all is well, 2 a plugin is broken.",
    },
    "demo": {
        "help": "Put made-up events at a rate",
        "desc": "Put made-up events on the bus at a rate. Without profiles they are printed on the console. "
        "Exit codes: those of 'evbus run'.",
    },
    "asyncapi": {
        "help": "Describe events, listeners and profiles as an AsyncAPI 3.0 document",
        "desc": "Write an AsyncAPI 3.0.0 document of the events that the listeners of --listeners, "
        "--plugin-dirs and --listen-to listen to, and of those in the modules that --events names: where the "
        "profiles send and receive them, and JSON Schemas of them; with --services also of the requests and "
        "replies of services over brokers. Nothing is connected to, and no login, password or key is in it. "
        "Events that nobody here listens to are taken to be sent with --profile. Exit codes: 0, or 2 when "
        "there is a mistake in the options, modules, plugins or profiles.",
    },
    "openapi": {
        "help": "Describe methods of services that have a path as an OpenAPI 3.1 document",
        "desc": "Write an OpenAPI 3.1 document of the methods that have a path (@get, @post, ...), of the "
        "interfaces in the modules that --interfaces names, and of those that files of folders component/ "
        "implement. Nothing is started or connected to. Exit codes: 0, or 2 when there is a mistake in the "
        "options, modules or plugins.",
    },
    "graph": {
        "help": "Show who sends what to whom, and who calls which service, as text or SVG",
        "desc": "Show events, the profiles that they go through, and the listeners that get them, found as "
        "by 'evbus asyncapi'; and components with their services, and what takes proxies of them. Text and "
        "dot need nothing else, SVG the program dot of Graphviz. Exit codes: 0, or 2 when there is a "
        "mistake in the options, modules, plugins or profiles.",
    },
    "dead": {
        "help": "Show which events were given up, and why",
        "desc": "Print a table of the dead store: for each lane the number of events, the oldest and the "
        "newest, and why the newest was given up; with --all a row for each program's. Exit codes: 0, or 2 "
        "when there is no such file.",
    },
    "replay": {
        "help": "Give dead events once more to the lanes that had given them up",
        "desc": "Take the events of a dead store and give each to the lane (plugin, provider, profile) that "
        "had given it up, and to no other. What is delivered is removed from the store; what dies again and "
        "what has no lane any more stays in it. Run again after a crash, it resumes. Exit codes: 0 "
        "everything was delivered, 1 something was not, 2 a mistake in the options, profiles or plugins, 130 "
        "stopped at once by a second signal.",
    },
}

DYNE = {
    "channel": ["channel"],
    "component": ["component"],
    "connection": ["connection"],
    "dispatch": ["dispatch"],
    "egress": ["egress"],
    "event": ["event"],
    "evbus": ["evbus"],
    "handler": ["handler"],
    "health": ["health"],
    "ingress": ["ingress"],
    "listener": ["listener"],
    "log": ["log"],
    "match": ["match"],
    "pipeline": ["pipeline"],
    "registry": ["registry"],
    "serialize": ["serialize"],
    "service": ["service"],
}
