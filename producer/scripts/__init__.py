"""The producer's Lua scripts, one file each, headed by its KEYS, ARGV and result; each has one caller."""

from producer.connection import Script

ACCEPT = Script.load(__name__, "accept")
CANCEL = Script.load(__name__, "cancel")
CONFIRM = Script.load(__name__, "confirm")
COUNT = Script.load(__name__, "count")
ENQUEUE = Script.load(__name__, "enqueue")
EXPIRE = Script.load(__name__, "expire")
RETRY = Script.load(__name__, "retry")
REVIVE = Script.load(__name__, "revive")
WITHDRAW = Script.load(__name__, "withdraw")
