-- Pages of a user's SMS of one status, the newest first: without it all of the user's other SMS would be read.
CREATE INDEX sms_messages_user_status_page ON sms_messages (user_id, status, submitted_at DESC, message_id DESC);

-- When a server B last began to tell of all users that have used up their quota: one does it for all.
CREATE TABLE sms_usage_rounds (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    begun_at timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO sms_usage_rounds DEFAULT VALUES;
