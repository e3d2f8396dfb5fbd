-- Tokens of the admin API, the log of every change, and sealed keys that can be sealed anew.

CREATE TABLE admin_tokens (
    token_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Never used twice, so that the log tells who it was.
    name         text NOT NULL CONSTRAINT admin_tokens_name_key UNIQUE
                 -- `bootstrap` is the one of the configuration.
                 CONSTRAINT admin_tokens_name CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$' AND name <> 'bootstrap'),
    role         text NOT NULL CONSTRAINT admin_tokens_role CHECK (role IN ('admin', 'reader')),
    hash         bytea NOT NULL CONSTRAINT admin_tokens_hash_key UNIQUE
                 CONSTRAINT admin_tokens_hash_length CHECK (octet_length(hash) = 32),
    prefix       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz CONSTRAINT admin_tokens_expires_at_representable CHECK (expires_at < '9999-01-01'),
    last_used_at timestamptz,
    revoked_at   timestamptz
);

CREATE TABLE audit_log (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- `token:<name>`, `cli:<user of the operating system>`, or `sql:<role>`.
    actor    text NOT NULL,
    action   text NOT NULL,
    user_id  bigint,
    -- What changed, without secrets: of a key neither itself, sealed or not, nor its digest.
    before   jsonb,
    after    jsonb,
    trace_id text
);
CREATE INDEX audit_log_user_id ON audit_log (user_id, audit_id);
CREATE INDEX audit_log_actor ON audit_log (actor, audit_id);
-- Rows come in the order of their times: a block range holds a short span.
CREATE INDEX audit_log_at ON audit_log USING brin (at);

-- Filters of lists. The operator class serves prefixes whatever the database's collation.
CREATE INDEX users_username_prefix ON users (username text_pattern_ops);
CREATE INDEX users_inactive ON users (user_id) WHERE NOT is_active;
CREATE INDEX users_created_at ON users USING brin (created_at);

-- Who changes something: told by server B for the transaction; whoever works by plain SQL is known by the role.
CREATE FUNCTION audit_actor() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('identity_sync.actor', true), ''), 'sql:' || session_user)
$$;

CREATE FUNCTION audit_trace_id() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT nullif(substr(current_setting('identity_sync.traceparent', true), 4, 32), '')
$$;

CREATE FUNCTION audit_image(k api_keys) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'key_id', k.key_id, 'prefix', k.prefix, 'expires_at', k.expires_at,
        'sealing_key', get_byte(k.sealed, 0))
$$;

-- What the wire tells of keys: a key that was sealed anew is the same key.
CREATE FUNCTION told_keys(keys jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_agg(jsonb_build_array(k -> 'digest', k -> 'expires_at_us', k ->> 'sealed' IS NULL) ORDER BY n)
    FROM jsonb_array_elements(keys) WITH ORDINALITY AS of_user (k, n)
$$;

-- As before, but a user whose keys were only sealed anew keeps its version: nothing is published.
CREATE OR REPLACE FUNCTION users_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.wire_keys := wire_keys_of(NEW.user_id);
        NEW.version := nextval('user_version');
        RETURN NEW;
    END IF;
    IF NEW.user_id <> OLD.user_id THEN
        RAISE EXCEPTION 'a user_id never changes'
            USING ERRCODE = 'check_violation', HINT = 'Create another user instead.';
    END IF;
    -- Whoever wrote wire_keys, only api_keys counts.
    IF NEW.wire_keys IS DISTINCT FROM OLD.wire_keys THEN
        NEW.wire_keys := wire_keys_of(NEW.user_id);
    END IF;
    IF (NEW.username, NEW.is_active, NEW.daily_quota)
        IS DISTINCT FROM (OLD.username, OLD.is_active, OLD.daily_quota)
        OR NEW.wire_keys IS DISTINCT FROM OLD.wire_keys
            AND told_keys(NEW.wire_keys) IS DISTINCT FROM told_keys(OLD.wire_keys)
    THEN
        NEW.version := nextval('user_version');
        NEW.updated_at := now();
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;

-- As before, and the change goes into the log. Keys alone are logged by their own table's trigger. The log takes the
-- outbox's images: to build one costs more than all the rest.
CREATE OR REPLACE FUNCTION users_after_write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_image jsonb;
    new_image jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        old_image := wire_image(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_image := wire_image(NEW);
    END IF;
    INSERT INTO outbox (user_id, version, old_image, new_image, traceparent, tracestate)
    VALUES (
        coalesce(NEW.user_id, OLD.user_id),
        CASE WHEN TG_OP = 'DELETE' THEN nextval('user_version') ELSE NEW.version END,
        old_image,
        new_image,
        -- Longer ones are not of the W3C format and could burst the frame of an AMQP header.
        nullif(left(current_setting('identity_sync.traceparent', true), 55), ''),
        nullif(left(current_setting('identity_sync.tracestate', true), 512), ''));
    IF TG_OP = 'UPDATE' AND (NEW.username, NEW.is_active, NEW.daily_quota)
        IS NOT DISTINCT FROM (OLD.username, OLD.is_active, OLD.daily_quota)
    THEN
        RETURN NULL;
    END IF;
    INSERT INTO audit_log (actor, action, user_id, before, after, trace_id)
    VALUES (
        audit_actor(),
        CASE TG_OP WHEN 'INSERT' THEN 'user.created' WHEN 'UPDATE' THEN 'user.updated' ELSE 'user.deleted' END,
        coalesce(NEW.user_id, OLD.user_id),
        old_image - 'keys',
        CASE WHEN TG_OP = 'INSERT' THEN jsonb_set(new_image, '{keys}', (
                 SELECT coalesce(jsonb_agg(jsonb_build_object(
                     'key_id', key_id, 'prefix', prefix, 'expires_at', expires_at)), '[]')
                 FROM api_keys WHERE api_keys.user_id = NEW.user_id)) ELSE new_image - 'keys' END,
        audit_trace_id());
    RETURN NULL;
END $$;

-- As before, and the change goes into the log. The keys of a user that is yet to come, as server B makes one, have
-- nothing to be mirrored in, and are logged with their user.
CREATE OR REPLACE FUNCTION api_keys_after_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In the order of the ids, so that two moves between the same users cannot deadlock.
    PERFORM 1 FROM users WHERE user_id IN (OLD.user_id, NEW.user_id) ORDER BY user_id FOR UPDATE;
    IF FOUND THEN
        UPDATE users SET wire_keys = wire_keys_of(user_id)
            WHERE user_id IN (OLD.user_id, NEW.user_id);
    ELSIF TG_OP = 'INSERT' THEN
        RETURN NULL;
    END IF;
    INSERT INTO audit_log (actor, action, user_id, before, after, trace_id)
    VALUES (
        audit_actor(),
        CASE TG_OP
            WHEN 'INSERT' THEN 'key.created'
            WHEN 'DELETE' THEN 'key.deleted'
            ELSE CASE WHEN (NEW.user_id, NEW.digest, NEW.expires_at)
                           IS DISTINCT FROM (OLD.user_id, OLD.digest, OLD.expires_at)
                      THEN 'key.updated' ELSE 'key.resealed' END
        END,
        coalesce(NEW.user_id, OLD.user_id),
        CASE WHEN TG_OP <> 'INSERT' THEN audit_image(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN audit_image(NEW) END,
        audit_trace_id());
    RETURN NULL;
END $$;

CREATE FUNCTION admin_tokens_after_write() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_image jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - '{token_id,hash,last_used_at}'::text[] END;
    new_image jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) - '{token_id,hash,last_used_at}'::text[] END;
BEGIN
    INSERT INTO audit_log (actor, action, before, after, trace_id)
    VALUES (
        audit_actor(),
        CASE TG_OP
            WHEN 'INSERT' THEN 'token.created'
            WHEN 'DELETE' THEN 'token.deleted'
            ELSE CASE WHEN OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL
                      THEN 'token.revoked' ELSE 'token.updated' END
        END,
        old_image, new_image, audit_trace_id());
    RETURN NULL;
END $$;

CREATE FUNCTION syncs_after_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_log (actor, action, after, trace_id)
    VALUES (audit_actor(), 'full_sync.requested', jsonb_build_object('sync_id', NEW.sync_id), audit_trace_id());
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME;
END $$;

CREATE TRIGGER admin_tokens_after
    AFTER INSERT OR DELETE OR UPDATE OF name, role, hash, expires_at, revoked_at ON admin_tokens
    FOR EACH ROW EXECUTE FUNCTION admin_tokens_after_write();
CREATE TRIGGER syncs_requested AFTER INSERT ON syncs
    FOR EACH ROW EXECUTE FUNCTION syncs_after_insert();
CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_update();

ALTER TABLE admin_tokens ENABLE ALWAYS TRIGGER admin_tokens_after;
ALTER TABLE syncs ENABLE ALWAYS TRIGGER syncs_requested;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_no_update;
