-- SMS that a provider has failed are due in any order: the age of the oldest is found by this. Few are in it, and none on the way
-- where nothing fails.
CREATE INDEX sms_messages_failed_open ON sms_messages (submitted_at)
    WHERE failures > 0 AND status IN ('queued', 'sending');
