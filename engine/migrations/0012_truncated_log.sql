-- TRUNCATE fires no trigger of DELETE: who resumes after events that it took would not be told.
CREATE FUNCTION note_truncated_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE event_log
       SET oldest = greatest(oldest, (SELECT max(position) + 1 FROM order_events));
    RETURN NULL;
END $$;
CREATE TRIGGER truncated_events BEFORE TRUNCATE ON order_events
    FOR EACH STATEMENT EXECUTE FUNCTION note_truncated_events();
