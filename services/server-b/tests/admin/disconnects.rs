//! Clients that go away in the middle, while the database is slow.

use std::time::Duration;

use service_runtime::http::Server;
use test_support::{Link, TcpRelay, TestServers};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Api, TOKEN, api_over, migrated};

/// Connections of the pool.
const POOL: u32 = 8;
/// Clients in one round; the link is silent while they go.
const ROUND: usize = 100;

/// 10,000 with the tier of faults.
fn clients() -> usize {
    match std::env::var("TEST_TIER") {
        Ok(tier) if tier == "faults" => 10_000,
        _ => 2_000,
    }
}

async fn go_away(address: std::net::SocketAddr, token: String, number: usize, after: Duration) {
    let mut stream = TcpStream::connect(address).await.expect("B listens");
    let body = format!(r#"{{"username": "user-{number}"}}"#);
    let (line, body) = match number % 4 {
        0 => ("GET /admin/v1/users?limit=5", String::new()),
        1 => (
            "PATCH /admin/v1/users/1",
            r#"{"daily_quota": 3}"#.to_owned(),
        ),
        2 => ("POST /admin/v1/users/1/rotate-key", "{}".to_owned()),
        _ => ("POST /admin/v1/users", body),
    };
    let request = format!(
        "{line} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    tokio::time::sleep(after).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_half_way_leave_no_broken_connection_in_the_pool() {
    let database = TestServers::shared().fresh_database();
    let (front, rest) = database.url().split_once('@').expect("a URL with a user");
    let (address, name) = rest.split_once('/').expect("a URL with a path");
    let relay = TcpRelay::start(address.parse().expect("an address")).expect("the relay starts");
    let pool = migrated(&format!("{front}@{}/{name}", relay.address()), POOL).await;
    let server = Server::bind("test", "127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("bound");
    let address = server.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let api = Api {
        router: api_over(&pool),
        pool,
        database,
    };
    let stored = api.token("some", "admin").await;
    let serving = tokio::spawn(server.serve(api.router.clone(), stop.clone()));

    for round in 0..clients() / ROUND {
        relay.set_link(Link::Silent);
        let mut round_of_clients = JoinSet::new();
        for number in 0..ROUND {
            let after = Duration::from_millis(number as u64 % 20);
            // One is compared in memory, the other looked for in the database.
            let token = [TOKEN, &stored][number / 4 % 2].to_owned();
            let number = round * ROUND + number;
            round_of_clients.spawn(go_away(address, token, number, after));
        }
        // Some statements get through while the clients go.
        tokio::time::sleep(Duration::from_millis(8)).await;
        relay.set_link(Link::Up);
        tokio::time::sleep(Duration::from_millis(2)).await;
        relay.set_link(Link::Silent);
        round_of_clients.join_all().await;
        relay.set_link(Link::Up);
    }

    // Changes that were begun are made to their end, whoever has gone.
    test_support::eventually(
        Duration::from_mins(2),
        "every connection back in the pool",
        || usize::try_from(api.pool.size()).is_ok_and(|size| api.pool.num_idle() == size),
    );
    // Each connection of the pool at once: none is in a transaction, and all answer what they are asked.
    let mut connections = Vec::new();
    for _ in 0..POOL {
        connections.push(api.pool.acquire().await.expect("a connection"));
    }
    for (number, connection) in connections.iter_mut().enumerate() {
        let number = i64::try_from(number).expect("a few");
        let answer: (i64, bool) =
            sqlx::query_as("SELECT $1, pg_current_xact_id_if_assigned() IS NULL")
                .bind(number)
                .fetch_one(&mut **connection)
                .await
                .expect("an answer");
        assert_eq!(answer, (number, true));
    }
    drop(connections);
    let idle_in_transaction = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    test_support::eventually(Duration::from_secs(30), "no open transaction", || {
        api.sql(idle_in_transaction) == "0"
    });
    stop.cancel();
    serving.await.expect("no panic").expect("served to the end");
}
