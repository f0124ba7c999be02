-- Version 2. The append of one session alone, which is what a server with few active sessions makes: one statement for
-- what `append_events` does for many. True: it is done. False: nothing was, and `append_events` says why not; events with
-- keys it is not given. What is written and what waits for whom is as there.
CREATE FUNCTION append_next(
    p_tenant text, p_session text, p_fence bigint, p_after bigint, p_status text, p_kinds text[], p_bodies bytea[]
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    watched boolean := NOT pg_try_advisory_xact_lock(followers());
    told uuid;
BEGIN
    PERFORM set_config('callbox.tenant', p_tenant, true);
    -- Where it waits for the row, UPDATE looks again at what has become of it, and reads the clock again.
    WITH moved AS (
        UPDATE sessions s SET last_seq = p_after + cardinality(p_kinds), status = p_status, updated_at = moment()
        WHERE s.tenant = p_tenant AND s.session = p_session AND s.fence = p_fence AND s.last_seq = p_after
        RETURNING s.id, s.watch, s.updated_at
    ), kept AS (
        INSERT INTO events (tenant, id, seq, at, kind, body)
        SELECT p_tenant, m.id, p_after + e.place, m.updated_at, e.kind, e.body
        FROM moved m CROSS JOIN unnest(p_kinds, p_bodies) WITH ORDINALITY e (kind, body, place)
    )
    SELECT m.watch INTO told FROM moved m;
    IF told IS NULL THEN
        RETURN false;
    END IF;
    IF watched THEN
        PERFORM pg_notify(current_schema(), told::text);
    END IF;
    RETURN true;
END $$;
