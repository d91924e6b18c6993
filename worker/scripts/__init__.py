"""The worker's Lua scripts, one file each, headed by its KEYS, ARGV and result; each has one caller."""

from producer.connection import Script

APPEND = Script.load(__name__, "append")
BURY = Script.load(__name__, "bury")
CLAIM = Script.load(__name__, "claim")
FINISH = Script.load(__name__, "finish")
LEAVE = Script.load(__name__, "leave")
RELEASE = Script.load(__name__, "release")
SETTLE = Script.load(__name__, "settle")
