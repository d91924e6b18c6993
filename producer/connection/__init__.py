"""The way to Redis: a URL becomes a client, a script becomes a call, no URL becomes an embedded server."""

from producer.connection.line import Line
from producer.connection.packing import Arg, pack
from producer.connection.script import Call, Script
from producer.connection.script_runner import ScriptRunner
from producer.connection.shared_timer import SharedTimer
from producer.connection.url import Url, bounded, connect

__all__ = [
    "Arg",
    "Call",
    "Line",
    "Script",
    "ScriptRunner",
    "SharedTimer",
    "Url",
    "bounded",
    "connect",
    "pack",
]
