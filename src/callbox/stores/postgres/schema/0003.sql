-- Version 3. `expired` answers page by page, so that a page of sessions that are kept does not hide those behind it.
-- Whoever might run the old one may run the new one; older callboxes that are still connected call it as before, and get
-- the beginning.
DO $migration$
DECLARE
    allowed text[] := ARRAY(
        SELECT quote_ident(r.rolname) FROM pg_proc p, aclexplode(p.proacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE p.oid = 'expired(float8, int)'::regprocedure AND a.privilege_type = 'EXECUTE'
    );
    one text;
BEGIN
    DROP FUNCTION expired(float8, int);

    -- The bound on expires_at alone says no more than the row's, but the planner may use an index for it: it may not let
    -- text be compared before the policies have been, because a comparison could tell what it was given.
    CREATE FUNCTION expired(
        p_now float8, p_limit int, p_after float8 DEFAULT '-infinity', p_tenant text DEFAULT '', p_session text DEFAULT ''
    ) RETURNS TABLE (tenant text, session text, expires_at float8)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    #variable_conflict use_column
    BEGIN
        PERFORM set_config('callbox.sweep', 'on', true);
        RETURN QUERY SELECT s.tenant, s.session, s.expires_at FROM sessions s
            WHERE s.expires_at <= p_now AND s.expires_at >= p_after
            AND (s.expires_at, s.tenant, s.session) > (p_after, p_tenant, p_session)
            ORDER BY s.expires_at, s.tenant, s.session LIMIT p_limit;
        PERFORM set_config('callbox.sweep', '', true);
    END $$;

    REVOKE ALL ON FUNCTION expired FROM PUBLIC;
    FOREACH one IN ARRAY allowed LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION expired TO %s', one);
    END LOOP;
END $migration$;
