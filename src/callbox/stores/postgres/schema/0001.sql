-- Version 1. Names are unqualified: while this runs, the search path is the store's schema and nothing else.
-- Times are seconds since the epoch by the server's clock. Text that is compared or sorted has the collation "C", which
-- is the order of code points, as in Python.

CREATE SEQUENCE fences;

-- id: short, for the events' rows, and never used twice. watch: what followers are woken with; nobody can guess it.
-- lease_after: last_seq when the newest lease was taken; what is above was appended under that lease.
-- fillfactor: an append updates the row in its page, and no index changes.
CREATE TABLE sessions (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    watch uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at float8 NOT NULL,
    updated_at float8 NOT NULL,
    last_seq bigint NOT NULL,
    status text NOT NULL DEFAULT 'idle',
    parent text COLLATE "C",
    parent_seq bigint,
    expires_at float8,
    fence bigint NOT NULL DEFAULT 0,
    lease_after bigint NOT NULL DEFAULT 0,
    owner text,
    lease_until float8,
    lease_ttl_s float8,
    PRIMARY KEY (tenant, session)
) WITH (fillfactor = 70);
CREATE INDEX sessions_forks ON sessions (tenant, parent) WHERE parent IS NOT NULL;
CREATE INDEX sessions_expiry ON sessions (expires_at) WHERE expires_at IS NOT NULL;

-- Sealed bodies do not compress, and no planner needs samples of them.
CREATE TABLE events (
    id bigint NOT NULL,
    seq bigint NOT NULL,
    at float8 NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    key text COLLATE "C",
    body bytea NOT NULL,
    PRIMARY KEY (tenant, id, seq)
);
ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN body SET STATISTICS 0;
CREATE UNIQUE INDEX events_keys ON events (tenant, id, key) WHERE key IS NOT NULL;

-- A table of its own, so that it can be rewritten when a secret must go. Statistics 0: ANALYZE would copy samples of the
-- secrets into pg_statistic, where they stay.
CREATE TABLE secrets (
    tenant text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    secret bytea NOT NULL,
    PRIMARY KEY (tenant, session)
);
ALTER TABLE secrets ALTER COLUMN secret SET STATISTICS 0;

-- Whether secrets were deleted whose bytes are still in the table's file.
CREATE TABLE forgetting (pending boolean NOT NULL);
INSERT INTO forgetting VALUES (false);

-- FORCE: for the owner of the tables, too. Without a tenant nothing is seen and nothing can be written.
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON sessions USING (tenant = current_setting('callbox.tenant', true));
CREATE POLICY own ON events USING (tenant = current_setting('callbox.tenant', true));
CREATE POLICY own ON secrets USING (tenant = current_setting('callbox.tenant', true));

-- The one look across tenants: `expired` runs as the owner, turns this policy on for itself, and returns only keys.
CREATE POLICY sweep ON sessions FOR SELECT TO CURRENT_USER USING (current_setting('callbox.sweep', true) = 'on');

CREATE FUNCTION expired(p_now float8, p_limit int) RETURNS TABLE (tenant text, session text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('callbox.sweep', 'on', true);
    RETURN QUERY SELECT s.tenant, s.session FROM sessions s
        WHERE s.expires_at <= p_now ORDER BY s.expires_at, s.tenant, s.session LIMIT p_limit;
    PERFORM set_config('callbox.sweep', '', true);
END $$;
REVOKE ALL ON FUNCTION expired FROM PUBLIC;

-- Write the table of secrets anew without those that were deleted, and give the old file back. Neither DELETE nor VACUUM
-- clears bytes in a page; VACUUM FULL copies dead rows that an old transaction could still see. A change of type does not.
CREATE FUNCTION forget() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE forgetting SET pending = false;
    ALTER TABLE secrets ALTER COLUMN secret TYPE bytea USING secret || ''::bytea, ALTER COLUMN secret SET STATISTICS 0;
END $$;
REVOKE ALL ON FUNCTION forget FROM PUBLIC;

CREATE FUNCTION moment() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT extract(epoch FROM clock_timestamp())::float8';

-- Two statements, sessions first: who waits for a row of sessions must not hold a lock on the table of secrets.
CREATE FUNCTION create_session(
    p_tenant text, p_session text, p_secret bytea, p_parent text, p_parent_seq bigint, p_expires_at float8
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    parent_last bigint;
    at float8 := moment();
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    IF EXISTS (SELECT FROM sessions WHERE tenant = p_tenant AND session = p_session) THEN
        RETURN 'exists';
    END IF;
    IF p_parent IS NOT NULL THEN
        SELECT last_seq INTO parent_last FROM sessions WHERE tenant = p_tenant AND session = p_parent FOR KEY SHARE;
        IF NOT FOUND OR p_parent_seq NOT BETWEEN 0 AND parent_last THEN
            RETURN 'orphan';
        END IF;
    END IF;
    INSERT INTO sessions (tenant, session, created_at, updated_at, last_seq, parent, parent_seq, expires_at, lease_after)
        VALUES (p_tenant, p_session, at, at, coalesce(p_parent_seq, 0), p_parent, p_parent_seq, p_expires_at,
                coalesce(p_parent_seq, 0))
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'exists';
    END IF;
    INSERT INTO secrets (tenant, session, secret) VALUES (p_tenant, p_session, p_secret);
    RETURN 'made';
END $$;

-- A lease's end that is more than its time ahead is not believed. p_dead: the fence of a lease whose holder is known to be dead.
CREATE FUNCTION acquire_lease(p_tenant text, p_session text, p_owner text, p_ttl_s float8, p_dead bigint)
RETURNS TABLE (verdict text, fence bigint, owner text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    held sessions;
    at float8;
    new_fence bigint;
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    SELECT * INTO held FROM sessions s WHERE s.tenant = p_tenant AND s.session = p_session FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'none', 0::bigint, '';
        RETURN;
    END IF;
    at := moment();  -- after the wait for the row
    IF held.owner IS NOT NULL AND held.lease_until > at AND held.lease_until <= at + held.lease_ttl_s
            AND held.fence IS DISTINCT FROM p_dead THEN
        RETURN QUERY SELECT 'busy', held.fence, held.owner;
        RETURN;
    END IF;
    new_fence := nextval('fences');
    UPDATE sessions s SET fence = new_fence, owner = p_owner, lease_until = at + p_ttl_s, lease_ttl_s = p_ttl_s,
            lease_after = s.last_seq
        WHERE s.tenant = p_tenant AND s.session = p_session;
    RETURN QUERY SELECT 'taken', new_fence, p_owner;
END $$;

CREATE FUNCTION renew_lease(p_tenant text, p_session text, p_fence bigint, p_owner text, p_ttl_s float8)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    UPDATE sessions SET owner = p_owner, lease_until = moment() + p_ttl_s, lease_ttl_s = p_ttl_s
        WHERE tenant = p_tenant AND session = p_session AND fence = p_fence;
    RETURN FOUND;
END $$;

CREATE FUNCTION release_lease(p_tenant text, p_session text, p_fence bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    UPDATE sessions SET owner = NULL, lease_until = NULL
        WHERE tenant = p_tenant AND session = p_session AND fence = p_fence;
    RETURN FOUND;
END $$;

CREATE FUNCTION set_expiry(p_tenant text, p_session text, p_fence bigint, p_expires_at float8)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    UPDATE sessions SET expires_at = p_expires_at
        WHERE tenant = p_tenant AND session = p_session AND fence = p_fence;
    RETURN FOUND;
END $$;

-- Order of locks: the session, `forgetting`, `secrets`; `forget` takes the last two in the same order.
CREATE FUNCTION erase_session(p_tenant text, p_session text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    doomed sessions;
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    SELECT * INTO doomed FROM sessions WHERE tenant = p_tenant AND session = p_session FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'none';
    END IF;
    IF EXISTS (SELECT FROM sessions WHERE tenant = p_tenant AND parent = p_session) THEN
        RETURN 'forks';
    END IF;
    UPDATE forgetting SET pending = true;
    DELETE FROM secrets WHERE tenant = p_tenant AND session = p_session;
    DELETE FROM events WHERE tenant = p_tenant AND id = doomed.id;
    DELETE FROM sessions WHERE tenant = p_tenant AND session = p_session;
    PERFORM pg_notify(current_schema(), doomed.watch::text);
    RETURN 'erased';
END $$;

-- The lock that followers share. An append that gets it alone knows that nobody listens and saves the NOTIFY, which
-- commits one at a time in the whole server. It keeps the lock until its commit: who begins to follow waits for that.
CREATE FUNCTION followers() RETURNS bigint LANGUAGE sql STABLE AS
    $$SELECT hashtextextended('callbox followers ' || current_schema(), 0)$$;

-- Many appends, one commit. Append n has the events whose p_owners is n: p_counts[n] of them after p_firsts[n] others.
-- Verdicts: ok; same (it was done before, and is left alone); fenced; conflict; taken (a key). Only ok changes anything.
-- A session that is not there has no verdict. LATERAL and OFFSET 0 leave the planner one way, by index for each row: a plan
-- that was made while the tables were small would else go through all sessions of a tenant once they are not.
CREATE FUNCTION append_events(
    p_tenants text[], p_sessions text[], p_fences bigint[], p_afters bigint[], p_counts int[], p_firsts int[],
    p_statuses text[], p_owners int[], p_kinds text[], p_keys text[], p_bodies bytea[]
) RETURNS TABLE (n int, verdict text, last_seq bigint, taken text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t text;
    asked text[];
    judged record;
    at float8;
    watched boolean := NOT pg_try_advisory_xact_lock(followers());
BEGIN
    FOR t IN SELECT DISTINCT a.tenant FROM unnest(p_tenants) a (tenant) ORDER BY 1 LOOP
        PERFORM set_config('callbox.tenant', t, true);
        -- A statement of its own, and in one order: the next one sees what those committed that this one waited for.
        asked := ARRAY(
            SELECT a.session FROM unnest(p_tenants, p_sessions) a (tenant, session) WHERE a.tenant = t ORDER BY 1
        );
        PERFORM FROM unnest(asked) a (session) CROSS JOIN LATERAL (
            SELECT FROM sessions x WHERE x.tenant = t AND x.session = a.session FOR NO KEY UPDATE OFFSET 0
        ) s;
        at := moment();
        FOR judged IN
            WITH held AS MATERIALIZED (
                SELECT a.n::int AS n, a.fence, a.after, a.count, a.first, a.status,
                       s.session, s.id, s.watch, s.last_seq, s.lease_after, s.fence AS newest
                FROM unnest(p_tenants, p_sessions, p_fences, p_afters, p_counts, p_firsts, p_statuses) WITH ORDINALITY
                    a (tenant, session, fence, after, count, first, status, n)
                CROSS JOIN LATERAL (SELECT * FROM sessions x WHERE x.tenant = t AND x.session = a.session OFFSET 0) s
                WHERE a.tenant = t
            ), given AS MATERIALIZED (
                SELECT h.n, h.id, h.after + e.place - h.first AS seq, e.kind, e.key, e.body
                FROM unnest(p_owners, p_kinds, p_keys, p_bodies) WITH ORDINALITY e (n, kind, key, body, place)
                JOIN held h ON h.n = e.n
            ), clashing AS (
                SELECT g.n, min(g.key) AS key FROM given g CROSS JOIN LATERAL (
                    SELECT FROM events x WHERE x.tenant = t AND x.id = g.id AND x.key = g.key OFFSET 0
                ) e WHERE g.key IS NOT NULL GROUP BY g.n
            ), differing AS (
                SELECT DISTINCT g.n FROM held h JOIN given g ON g.n = h.n AND h.last_seq <> h.after
                LEFT JOIN LATERAL (
                    SELECT x.kind, x.key, x.body FROM events x
                    WHERE x.tenant = t AND x.id = g.id AND x.seq = g.seq OFFSET 0
                ) e ON true
                WHERE (e.kind, e.key, e.body) IS DISTINCT FROM (g.kind, g.key, g.body)
            ), verdicts AS MATERIALIZED (
                SELECT h.*, c.key AS taken, CASE
                    WHEN h.fence <> h.newest THEN 'fenced'
                    WHEN h.after = h.last_seq AND c.n IS NULL THEN 'ok'
                    WHEN h.after = h.last_seq THEN 'taken'
                    WHEN h.after >= h.lease_after AND h.after + h.count <= h.last_seq AND d.n IS NULL THEN 'same'
                    ELSE 'conflict' END AS verdict
                FROM held h LEFT JOIN clashing c ON c.n = h.n LEFT JOIN differing d ON d.n = h.n
            ), kept AS (
                INSERT INTO events (tenant, id, seq, at, kind, key, body)
                SELECT t, g.id, g.seq, at, g.kind, g.key, g.body
                FROM verdicts v JOIN given g ON g.n = v.n WHERE v.verdict = 'ok'
            )
            SELECT v.n, v.session, v.verdict, v.last_seq, v.after + v.count AS new_last, v.status, v.taken, v.watch
            FROM verdicts v
        LOOP
            IF judged.verdict = 'ok' THEN
                UPDATE sessions s SET last_seq = judged.new_last, status = judged.status, updated_at = at
                    WHERE s.tenant = t AND s.session = judged.session;
                IF watched THEN
                    PERFORM pg_notify(current_schema(), judged.watch::text);
                END IF;
            END IF;
            n := judged.n;
            verdict := judged.verdict;
            last_seq := judged.last_seq;
            taken := judged.taken;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;
