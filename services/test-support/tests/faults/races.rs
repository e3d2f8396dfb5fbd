//! Many transactions at once on few users.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use test_support::app::{App, DEADLINE, Setup, Verdict, bulk_key};
use test_support::servers::packages;

use crate::stream::assert_equal;
use crate::{alone, count};

const USERS: u64 = 5;
/// Keys that move among the users, besides each user's own.
const MOVING_KEYS: u64 = 5;
const SESSIONS: u64 = 8;
/// Transactions that a session is given at a time.
const PART: u64 = 100;

#[test]
fn of_transactions_that_race_on_few_users_the_last_commit_wins_on_every_replica() {
    let _alone = alone();
    let wanted = count(10_000, 1000);
    let (setup, guards) = Setup::shared();
    let url = guards.0.url().to_owned();
    let mut app = App::new(setup.env("AUDIT_INTERVAL_SECONDS", "1"), Some(guards));
    app.start_all(2);
    app.bulk_users(USERS);
    let _ = app.sql("CREATE TABLE race (id bigint GENERATED ALWAYS AS IDENTITY)");

    let began = Instant::now();
    let (mut committed, mut parts) = (0, 0);
    while committed < wanted {
        committed += thread::scope(|scope| {
            let sessions: Vec<_> = (parts..parts + SESSIONS)
                .map(|part| {
                    let url = &url;
                    scope.spawn(move || run(url, part))
                })
                .collect();
            let ended = |session: ScopedJoinHandle<'_, u64>| session.join().expect("psql runs");
            sessions.into_iter().map(ended).sum::<u64>()
        });
        parts += SESSIONS;
    }
    let rolled_back = parts * PART - committed;
    let took = began.elapsed();
    let overtaken = overtaken(&app);
    assert!(
        overtaken > wanted / 100,
        "transactions must overtake one another, not {overtaken}"
    );
    // Quotas, too, which no verdict shows.
    assert_equal(&app, DEADLINE);
    let verdicts = check_every_key(&app);
    println!(
        "4 races: {committed} transactions committed on {USERS} users in {:.1} s ({rolled_back} rolled back, \
         {overtaken} committed after a later one), {verdicts} verdicts as the last commit has it",
        took.as_secs_f64()
    );
    app.assert_no_faults();
}

/// One session with its part of the transactions; gives how many it committed.
fn run(url: &str, part: u64) -> u64 {
    let bin = packages::find_postgres_bin().expect("PostgreSQL is installed");
    let mut psql = Command::new(bin.join("psql"))
        .args(["--no-psqlrc", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql starts");
    let mut input = psql.stdin.take().expect("stdin is piped");
    let transactions: String = (0..PART).map(|n| transaction(part * PART + n)).collect();
    let script = format!("SET deadlock_timeout = '20ms';\n{transactions}");
    // While its output is read, or both would wait on a full pipe.
    thread::spawn(move || input.write_all(script.as_bytes()));
    let output = psql.wait_with_output().expect("psql ends");
    assert!(output.status.success(), "psql ended with {}", output.status);
    let errors = String::from_utf8_lossy(&output.stderr);
    for error in errors.lines().filter(|line| line.contains("ERROR:")) {
        let raced = ["deadlock", "duplicate key", "foreign key", "aborted"];
        assert!(raced.iter().any(|text| error.contains(text)), "{error}");
    }
    let output = String::from_utf8_lossy(&output.stdout);
    output.lines().filter(|line| *line == "COMMIT").count() as u64
}

/// The n-th transaction of the race.
fn transaction(n: u64) -> String {
    // Scattered, but the same in every run.
    let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    let user = format!("user-{}", random % USERS + 1);
    let moving = moving_key(random / 8 % MOVING_KEYS);
    let change = match random / 64 % 10 {
        0 => format!(
            "DELETE FROM users WHERE username = '{user}';
             INSERT INTO users (username) VALUES ('{user}') ON CONFLICT (username) DO UPDATE SET is_active = true;
             {}",
            give(&bulk_key(&user), &user, "NULL")
        ),
        1 => format!("DELETE FROM api_keys WHERE digest = sha256('{moving}');"),
        2..=5 => give(&moving, &user, "'2100-01-01'"),
        _ => format!(
            "UPDATE users SET is_active = NOT is_active, daily_quota = {n} WHERE username = '{user}';"
        ),
    };
    let mut script = format!("BEGIN;\n{change}\nINSERT INTO race DEFAULT VALUES;\n");
    if (random / 1024).is_multiple_of(4) {
        // Held open, so that others get in between.
        let _ = writeln!(script, "SELECT pg_sleep(0.003);");
    }
    script + "COMMIT;\n"
}

/// Makes a key the user's, whoever had it before.
fn give(key: &str, user: &str, expires_at: &str) -> String {
    format!(
        "INSERT INTO api_keys (user_id, digest, prefix, expires_at)
         SELECT user_id, sha256('{key}'), 'isk_', {expires_at} FROM users WHERE username = '{user}'
         ON CONFLICT (digest) DO UPDATE SET user_id = excluded.user_id;"
    )
}

fn moving_key(number: u64) -> String {
    format!("isk_race_{number}")
}

/// Transactions that committed after another one which had come to its last statement later.
fn overtaken(app: &App) -> u64 {
    let overtaken = app.sql(
        "SELECT count(*) FROM (
             SELECT at > min(at) OVER (ORDER BY id ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS overtaken
             FROM (SELECT id, pg_xact_commit_timestamp(xmin) AS at FROM race) AS committed
         ) AS compared WHERE overtaken",
    );
    overtaken.parse().expect("a count")
}

/// Every replica says of every key what its row says, as the last commit left it.
fn check_every_key(app: &App) -> usize {
    let own = (1..=USERS).map(|user| bulk_key(&format!("user-{user}")));
    let keys: Vec<String> = own.chain((0..MOVING_KEYS).map(moving_key)).collect();
    let mut seen = 0;
    for key in &keys {
        let active = app.sql(&format!(
            "SELECT is_active FROM api_keys JOIN users USING (user_id) WHERE digest = sha256('{key}')"
        ));
        let expected = match active.as_str() {
            "t" => Verdict::Accepted,
            "f" => Verdict::Inactive,
            "" => Verdict::Unknown,
            other => panic!("{other}"),
        };
        for replica in &app.replicas {
            let verdict = app.verdict(replica, key);
            assert_eq!(verdict, expected, "of {key} at {}", replica.url);
            seen += 1;
        }
    }
    seen
}
