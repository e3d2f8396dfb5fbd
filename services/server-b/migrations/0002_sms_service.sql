-- What the SMS service needs beside the rows themselves. Only additions: N-1 goes on as it did, and what it stores has
-- the defaults below (no expiry of its own, no history, nothing charged).

ALTER TABLE sms_messages
    -- Not handed over after this; NULL: stored by N-1.
    ADD COLUMN expires_at            timestamptz,
    ADD COLUMN client_reference      text
               CONSTRAINT sms_messages_client_reference_length CHECK (char_length(client_reference) <= 256),
    -- What an Idempotency-Key was first used for, and how often it came with something else.
    ADD COLUMN request_hash          text
               CONSTRAINT sms_messages_request_hash_length CHECK (char_length(request_hash) <= 128),
    ADD COLUMN idempotency_conflicts integer NOT NULL DEFAULT 0,
    -- Hand-overs that a provider did not take. Also says whose turn it is: a hand-over of which nobody knows the end is
    -- repeated at the same provider, which knows its idempotency token.
    ADD COLUMN failures              integer NOT NULL DEFAULT 0,
    -- Steps after `queued`, the oldest first: objects with status, at, error_code.
    ADD COLUMN history               jsonb NOT NULL DEFAULT '[]';

-- Pages of a user's SMS, the newest first; does what the index without the id did.
CREATE INDEX sms_messages_user_page ON sms_messages (user_id, submitted_at DESC, message_id DESC);
DROP INDEX sms_messages_user;

-- Whose receipt it is.
CREATE INDEX sms_messages_provider_id ON sms_messages (provider, provider_message_id)
    WHERE provider_message_id IS NOT NULL;

-- What may be purged, by age.
CREATE INDEX sms_messages_ended ON sms_messages (status_changed_at)
    WHERE status NOT IN ('queued', 'sending');

-- Segments charged to a user on a UTC day of submission. Its row is locked while SMS of that user and day are stored:
-- that makes the quota exact, however many server Bs store. Half-filled pages, for updates in place.
CREATE TABLE sms_usage (
    day      date NOT NULL,
    user_id  bigint NOT NULL,
    segments integer NOT NULL,
    PRIMARY KEY (day, user_id)
) WITH (fillfactor = 50);

-- Delivery receipts that came before the answer to their hand-over was stored, or for an SMS that nobody knows.
CREATE TABLE sms_receipts (
    provider            text NOT NULL,
    provider_message_id text NOT NULL,
    status              text NOT NULL CHECK (status IN ('delivered', 'undelivered', 'failed')),
    error_code          text,
    received_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_message_id)
);
CREATE INDEX sms_receipts_received_at ON sms_receipts (received_at);
