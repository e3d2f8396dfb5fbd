//! What is too old is purged; what still waits is not.

use super::b_world::World;

const FILL: &str = "
    INSERT INTO sms_messages (message_id, user_id, recipient, body, encoding, segments, submitted_at, admission_epoch,
                              admission_sequence, admission_cache_age_ms, status, status_changed_at, next_attempt_at)
    SELECT gen_random_uuid(), 1, '+14155550123', 'x', 'gsm7', 1, now(), 1, 1, 0, status, now() - age, now() + '1 d'
    FROM generate_series(1, 1200), unnest(ARRAY['sent', 'delivered', 'rejected', 'queued']) AS status,
         unnest(ARRAY['8 d', '6 d']::interval[]) AS age;
    INSERT INTO sms_usage (day, user_id, segments)
    SELECT (now() AT TIME ZONE 'UTC')::date - age, 1, 5 FROM unnest(ARRAY[0, 6, 8, 40]) AS age;
    INSERT INTO syncs (sync_id, status, requested_by, finished_at)
    SELECT gen_random_uuid(), status, 'test', finished_at
    FROM (VALUES ('completed', now() - interval '31 d'), ('failed', now() - interval '29 d'), ('requested', NULL))
         AS sync (status, finished_at);
    INSERT INTO replicas (instance, queue, report_number, ready, applied_epoch, applied_sequence, users,
                          fail_closed_after_ms, reported_at, received_at)
    SELECT name, name, 1, true, 1, 1, 0, 15000, now(), now() - age
    FROM (VALUES ('dead', interval '2 d'), ('silent', interval '1 h')) AS replica (name, age)";

#[test]
fn old_rows_at_their_end_are_purged_and_nothing_else() {
    let mut world = World::start();
    let _ = world.kill_b();
    let _ = world.sql(FILL);
    let mut world = world.env("SMS_RETENTION_DAYS", "7");
    // Two side by side: both look at once.
    world.start_b();
    world.start_b();
    let kept = "SELECT string_agg(status || '=' || count, ' ' ORDER BY status)
                FROM (SELECT status, count(*) FROM sms_messages GROUP BY status) AS states";
    // Of `queued` all: those that wait are never too old.
    world.until(kept, "delivered=1200 queued=2400 rejected=1200 sent=1200");
    // Not as soon as SMS: those that are yet to be stored may be of a day of the last month.
    let days = "SELECT string_agg(((now() AT TIME ZONE 'UTC')::date - day)::text, ' ' ORDER BY day DESC) FROM sms_usage";
    world.until(days, "0 6 8");
    world.until(
        "SELECT count(*) FROM syncs WHERE finished_at < now() - interval '30 d'",
        "0",
    );
    world.until("SELECT count(*) FROM syncs", "2");
    world.until("SELECT string_agg(instance, ',') FROM replicas", "silent");
    assert_eq!(
        world.metric("identity_purged_rows_total", "table=\"sms_messages\""),
        3600
    );
}

#[test]
fn zero_days_keep_all_sms() {
    let mut world = World::start();
    let _ = world.kill_b();
    let _ = world.sql(FILL);
    let mut world = world.env("SMS_RETENTION_DAYS", "0");
    world.start_b();
    world.until("SELECT string_agg(instance, ',') FROM replicas", "silent");
    assert_eq!(world.sql("SELECT count(*) FROM sms_messages"), "9600");
    assert_eq!(world.sql("SELECT count(*) FROM sms_usage"), "4");
}
