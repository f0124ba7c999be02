"""What Redis does in one step, in Lua, while events wait there for the inner store.

Keys of a session: `state` (hash: fence, last, life, run, ready, stuck), `pending` (stream; an entry's id is the event's
number), `taken` (set of idempotency keys); of all: `waiting` (sorted set of the sessions with something pending).

`run` is the id of the server's run. A server that was restarted, or one that took over from another, may have gone back
in time (a power cut takes the last second of its file): what its state says about fences and numbers may be old. So
every append compares; a state of another run is not believed until the inner store was asked (`opened`).
"""

_RUN = "local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')\n"

STATE_S = 86_400
"""Seconds that the state of a session is kept after its last append. Without it the inner store is asked again."""

APPEND = (
    _RUN
    + f"local ttl = {STATE_S}\n"
    + """
local state, pending, taken, waiting, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local fence, after, status, room, name = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local s = redis.call('HMGET', state, 'fence', 'last', 'run', 'ready', 'stuck', 'life')
if s[1] and fence < tonumber(s[1]) then return {'fenced'} end
if s[5] then return {'stuck', s[5]} end
if not s[1] or fence > tonumber(s[1]) or s[3] ~= run or s[4] ~= '1' then return {'stale'} end
local last, count = tonumber(s[2]), (#ARGV - 5) / 3
if after ~= last then return {'conflict', last} end
if redis.call('XLEN', pending) + count > room then return {'full'} end
for i = 0, count - 1 do
    local key = ARGV[7 + 3 * i]
    if key ~= '' and redis.call('SISMEMBER', taken, key) == 1 then return {'taken', string.sub(key, 2)} end
end
local t = redis.call('TIME')
local at = t[1] .. '.' .. string.format('%06d', tonumber(t[2]))
for i = 0, count - 1 do
    local key = ARGV[7 + 3 * i]
    if key ~= '' then redis.call('SADD', taken, key) end
    local last_of_append = (i == count - 1) and '1' or ''
    redis.call('XADD', pending, (after + 1 + i) .. '-0', 'kind', ARGV[6 + 3 * i], 'key', key, 'body', ARGV[8 + 3 * i],
        'at', at, 'end', last_of_append, 'status', status)
end
redis.call('HSET', state, 'last', after + count)
redis.call('EXPIRE', state, ttl)
redis.call('EXPIRE', taken, ttl)
redis.call('ZADD', waiting, 'NX', t[1], name)
redis.call('PUBLISH', channel, s[6] .. ' ' .. (after + count))
return {'ok'}
"""
)
"""Append, if the fence is the newest and `after` the last number. ARGV: fence, after, status, room, name of the
session, then kind, key ('' or 'k' + key) and body of each event."""

FENCE = """
local s = redis.call('HMGET', KEYS[1], 'fence', 'life')
if s[1] and tonumber(ARGV[1]) < tonumber(s[1]) then return 0 end
if s[2] and s[2] ~= ARGV[2] then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    redis.call('ZREM', KEYS[4], ARGV[3])
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'life', ARGV[2], 'ready', '')
return 1
"""
"""From now on no older fence appends, and this one only once it was `OPENED`. KEYS: state, pending, taken, waiting.
ARGV: fence, life, name. What is left of an erased session of the same name goes."""

OPENED = (
    _RUN
    + f"local ttl = {STATE_S}\n"
    + """
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence or tonumber(fence) ~= tonumber(ARGV[1]) or redis.call('XLEN', KEYS[2]) > 0 then return 0 end
redis.call('HSET', KEYS[1], 'last', ARGV[2], 'run', run, 'ready', '1')
redis.call('DEL', KEYS[3])
for i = 3, #ARGV do redis.call('SADD', KEYS[3], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[3], ttl)
return 1
"""
)
"""Let this fence append. KEYS: state, pending, taken. ARGV: fence, the journal's last number, its idempotency keys."""

WAITING = (
    _RUN
    + """
return {run, redis.call('HGET', KEYS[1], 'fence'), redis.call('HGET', KEYS[1], 'life'),
    redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[1]), redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)}
"""
)
"""What a flush needs: the run, fence, life, the first entries and the last. KEYS: state, pending."""

FLUSHED = (
    _RUN
    + """
if run ~= ARGV[1] then return 0 end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2] .. '-0')
if redis.call('XLEN', KEYS[1]) == 0 then
    redis.call('DEL', KEYS[1])
    redis.call('ZREM', KEYS[2], ARGV[3])
end
return 1
"""
)
"""Remove the entries below a number: the inner store has committed them. KEYS: pending, waiting. ARGV: the run in which
they were read, the number, the session's name."""

FORGET = """
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
redis.call('ZREM', KEYS[4], ARGV[1])
if ARGV[2] ~= '' then redis.call('PUBLISH', KEYS[5], ARGV[2]) end
return 1
"""
"""Remove all of a session. KEYS: state, pending, taken, waiting, channel. ARGV: name, notice."""

UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

LOCK = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
"""Who flushes regularly. Two at once are slower, not wrong."""
