"""The worker's Lua scripts, one file each, headed by its KEYS, ARGV and result; each has one caller."""

from producer.connection import Script

ACQUIRE = Script.load(__name__, "acquire")
APPEND = Script.load(__name__, "append")
BURY = Script.load(__name__, "bury")
CHOOSE = Script.load(__name__, "choose")
CLAIM = Script.load(__name__, "claim")
DEFER = Script.load(__name__, "defer")
FINISH = Script.load(__name__, "finish")
LEAVE = Script.load(__name__, "leave")
OVERDUE = Script.load(__name__, "overdue")
PARK = Script.load(__name__, "park")
PARKED = Script.load(__name__, "parked")
PROMOTE = Script.load(__name__, "promote")
RECLAIM = Script.load(__name__, "reclaim")
RELEASE = Script.load(__name__, "release")
RENEW = Script.load(__name__, "renew")
RESTORE = Script.load(__name__, "restore")
SETTLE = Script.load(__name__, "settle")
STANDS = Script.load(__name__, "stands")
TIDY = Script.load(__name__, "tidy")
VACATE = Script.load(__name__, "vacate")
