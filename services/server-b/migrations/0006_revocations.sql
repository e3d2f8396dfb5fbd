-- When a user lost the right to send: deactivated, or deleted. What was admitted later was admitted by a replica that did not
-- know yet. Without foreign key: it outlives the user.
CREATE TABLE revocations (
    user_id    bigint PRIMARY KEY,
    revoked_at timestamptz NOT NULL
);
CREATE INDEX revocations_revoked_at ON revocations (revoked_at);

CREATE FUNCTION users_revoked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.is_active THEN
        DELETE FROM revocations WHERE user_id = OLD.user_id;
    ELSE
        INSERT INTO revocations (user_id, revoked_at) VALUES (OLD.user_id, clock_timestamp())
        -- Deleted when it was inactive already: nothing was lost then.
        ON CONFLICT (user_id) DO NOTHING;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER users_revoked_update AFTER UPDATE OF is_active ON users
    FOR EACH ROW WHEN (OLD.is_active <> NEW.is_active) EXECUTE FUNCTION users_revoked();
CREATE TRIGGER users_revoked_delete AFTER DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION users_revoked();
ALTER TABLE users ENABLE ALWAYS TRIGGER users_revoked_update;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_revoked_delete;
