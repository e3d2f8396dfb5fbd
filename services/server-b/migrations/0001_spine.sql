-- Users, their keys, the outbox that a trigger fills, and what server B keeps of relays, replicas,
-- full syncs and SMS. Later migrations expand; nothing here is renamed (N-1 and N run side by side).

-- Drawn under the lock of the user's row, so per user it only grows. CACHE 1: a cached block of
-- another session would let it go back.
CREATE SEQUENCE user_version AS bigint CACHE 1;

CREATE TABLE users (
    user_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username    text NOT NULL CONSTRAINT users_username_key UNIQUE
                CONSTRAINT users_username_length CHECK (char_length(username) BETWEEN 1 AND 150),
    is_active   boolean NOT NULL DEFAULT true,
    daily_quota integer NOT NULL DEFAULT 1000
                CONSTRAINT users_daily_quota_not_negative CHECK (daily_quota >= 0),
    -- The user's api_keys as the wire needs them, kept by trigger: so the old and the new image of a
    -- change are the old and the new row, whichever table it was made in.
    wire_keys   jsonb NOT NULL DEFAULT '[]',
    version     bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    key_id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Deferred: server B inserts the key first and the user second, which is one event, not two.
    user_id      bigint NOT NULL
                 CONSTRAINT api_keys_user REFERENCES users ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    digest       bytea NOT NULL CONSTRAINT api_keys_digest_key UNIQUE
                 CONSTRAINT api_keys_digest_length CHECK (octet_length(digest) = 32),
    sealed       bytea,
    prefix       text NOT NULL,
    -- NULL: the current key. Otherwise accepted until then.
    expires_at   timestamptz CONSTRAINT api_keys_expires_at_representable
                 -- RFC 3339, and not infinite: what cannot be written on the wire would stop the relay.
                 CHECK (expires_at >= '1970-01-01' AND expires_at < '9999-01-01'),
    last_used_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX api_keys_one_current ON api_keys (user_id) WHERE expires_at IS NULL;
CREATE INDEX api_keys_user_id ON api_keys (user_id);

CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch       bigint,
    -- NULL until the relay numbers the row; numbers are contiguous in commit order.
    sequence    bigint,
    user_id     bigint NOT NULL,
    version     bigint NOT NULL,
    old_image   jsonb,
    new_image   jsonb,
    traceparent text,
    tracestate  text,
    txid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX outbox_sequence ON outbox (sequence) WHERE sequence IS NOT NULL;
CREATE INDEX outbox_unnumbered ON outbox (id) WHERE sequence IS NULL;
CREATE INDEX outbox_unnumbered_user ON outbox (user_id) WHERE sequence IS NULL;

CREATE TABLE relay_state (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Who may number: grows with every leader.
    term              bigint NOT NULL DEFAULT 0,
    -- Tells the trigger that nobody polls fast enough, so that it must notify.
    sleeping          boolean NOT NULL DEFAULT false,
    epoch             bigint NOT NULL DEFAULT 1,
    -- Tells a restored database from the one that it was: see the relay.
    history           text,
    -- Last number given, and what the users amount to with it.
    sequence          bigint NOT NULL DEFAULT 0,
    user_count        bigint NOT NULL DEFAULT 0,
    digest            bytea NOT NULL DEFAULT '\x00000000000000000000000000000000',
    digest_version    smallint NOT NULL DEFAULT 1,
    -- When the last bookmark was confirmed by the broker.
    bookmarked_at     timestamptz,
    -- When the digest was last compared with the tables themselves.
    audited_at        timestamptz,
    -- Counts audits, so that of two at the same time only one corrects the digest.
    audits            bigint NOT NULL DEFAULT 0
);
INSERT INTO relay_state DEFAULT VALUES;

CREATE TABLE replicas (
    instance             text PRIMARY KEY,
    queue                text NOT NULL,
    -- Counts the reports of one queue: clocks may step back.
    report_number        bigint NOT NULL,
    ready                boolean NOT NULL,
    applied_epoch        bigint NOT NULL,
    applied_sequence     bigint NOT NULL,
    proven_epoch         bigint,
    proven_sequence      bigint,
    proven_since         timestamptz,
    users                bigint NOT NULL,
    -- Full sync under way, and the rows of it that were taken in.
    syncing_id           uuid,
    syncing_rows         bigint,
    last_sync_id         uuid,
    -- Its lease: it may serve this long after it last heard from the broker.
    fail_closed_after_ms bigint NOT NULL,
    reported_at          timestamptz NOT NULL,
    received_at          timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE syncs (
    sync_id         uuid PRIMARY KEY,
    status          text NOT NULL DEFAULT 'requested'
                    CHECK (status IN ('requested', 'running', 'completed', 'failed')),
    requested_by    text NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz,
    users_total     bigint,
    users_published bigint NOT NULL DEFAULT 0,
    epoch           bigint,
    sequence        bigint,
    comparable_from bigint,
    digest          bytea,
    error           text
);
CREATE INDEX syncs_open ON syncs (requested_at) WHERE status IN ('requested', 'running');

CREATE TABLE sms_messages (
    message_id             uuid PRIMARY KEY,
    -- No foreign key: the record outlives the user.
    user_id                bigint NOT NULL,
    recipient              text NOT NULL,
    sender                 text,
    body                   text NOT NULL,
    encoding               text NOT NULL,
    segments               smallint NOT NULL,
    submitted_at           timestamptz NOT NULL,
    received_at            timestamptz NOT NULL DEFAULT now(),
    admission_epoch        bigint NOT NULL,
    admission_sequence     bigint NOT NULL,
    admission_cache_age_ms bigint NOT NULL,
    status                 text NOT NULL DEFAULT 'queued'
                           CHECK (status IN ('queued', 'sending', 'sent', 'delivered', 'undelivered',
                                             'failed', 'expired', 'rejected')),
    status_changed_at      timestamptz NOT NULL DEFAULT now(),
    attempts               integer NOT NULL DEFAULT 0,
    -- When a worker may take it (again); a worker that took it holds it until then.
    next_attempt_at        timestamptz NOT NULL DEFAULT now(),
    provider               text,
    provider_message_id    text,
    error_code             text,
    traceparent            text,
    tracestate             text
);
CREATE INDEX sms_messages_due ON sms_messages (next_attempt_at) WHERE status IN ('queued', 'sending');
CREATE INDEX sms_messages_user ON sms_messages (user_id, submitted_at DESC);

-- VOLATILE, so that after waiting for a lock it sees what the lock's holder committed.
CREATE FUNCTION wire_keys_of(id bigint) RETURNS jsonb LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(
        jsonb_agg(
            jsonb_build_object(
                'digest', encode(digest, 'hex'),
                'sealed', encode(sealed, 'hex'),
                -- Microseconds since the Unix epoch: exact, whatever the session's time zone.
                'expires_at_us', (extract(epoch FROM expires_at) * 1000000)::bigint
            ) ORDER BY expires_at NULLS FIRST, digest
        ), '[]')
    FROM api_keys WHERE user_id = id
$$;

CREATE FUNCTION api_keys_after_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In the order of the ids, so that two moves between the same users cannot deadlock.
    PERFORM 1 FROM users WHERE user_id IN (OLD.user_id, NEW.user_id) ORDER BY user_id FOR UPDATE;
    UPDATE users SET wire_keys = wire_keys_of(user_id)
        WHERE user_id IN (OLD.user_id, NEW.user_id);
    RETURN NULL;
END $$;

CREATE FUNCTION users_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
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
    IF (NEW.username, NEW.is_active, NEW.daily_quota, NEW.wire_keys)
        IS DISTINCT FROM (OLD.username, OLD.is_active, OLD.daily_quota, OLD.wire_keys)
    THEN
        NEW.version := nextval('user_version');
        NEW.updated_at := now();
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION wire_image(u users) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'user_id', u.user_id, 'username', u.username, 'is_active', u.is_active,
        'daily_quota', u.daily_quota, 'version', u.version, 'keys', u.wire_keys)
$$;

CREATE FUNCTION users_after_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox (user_id, version, old_image, new_image, traceparent, tracestate)
    VALUES (
        coalesce(NEW.user_id, OLD.user_id),
        CASE WHEN TG_OP = 'DELETE' THEN nextval('user_version') ELSE NEW.version END,
        CASE WHEN TG_OP <> 'INSERT' THEN wire_image(OLD) END,
        CASE WHEN TG_OP <> 'DELETE' THEN wire_image(NEW) END,
        -- Longer ones are not of the W3C format and could burst the frame of an AMQP header.
        nullif(left(current_setting('identity_sync.traceparent', true), 55), ''),
        nullif(left(current_setting('identity_sync.tracestate', true), 512), ''));
    RETURN NULL;
END $$;

-- NOTIFY takes a lock of the whole cluster at commit: only when the relay says that it sleeps, and
-- once a statement.
CREATE FUNCTION users_wake_relay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM relay_state WHERE sleeping) THEN
        NOTIFY identity_sync_outbox;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % would be unseen by every replica', TG_TABLE_NAME
        USING HINT = 'Use DELETE.';
END $$;

CREATE TRIGGER users_before BEFORE INSERT OR UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION users_before_write();
CREATE TRIGGER users_after_insert_delete AFTER INSERT OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION users_after_write();
CREATE TRIGGER users_after_update AFTER UPDATE ON users
    FOR EACH ROW WHEN (OLD.version <> NEW.version) EXECUTE FUNCTION users_after_write();
CREATE TRIGGER users_wake AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION users_wake_relay();
CREATE TRIGGER users_no_truncate BEFORE TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER api_keys_after
    AFTER INSERT OR DELETE OR UPDATE OF user_id, digest, sealed, expires_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION api_keys_after_write();
CREATE TRIGGER api_keys_no_truncate BEFORE TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();

-- ALWAYS: also under session_replication_role = replica, as bulk loaders set it.
ALTER TABLE users ENABLE ALWAYS TRIGGER users_before;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_after_insert_delete;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_after_update;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_wake;
ALTER TABLE users ENABLE ALWAYS TRIGGER users_no_truncate;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER api_keys_after;
ALTER TABLE api_keys ENABLE ALWAYS TRIGGER api_keys_no_truncate;
