//! What came out: the stream as a queue of the test's own has got it, and the caches as their clients see them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use test_support::app::{App, Node, bulk_key};
use test_support::servers::Management;
use test_support::{Http, TestVhost, eventually};

const EXCHANGE: &str = "config_events_exchange";
const QUEUE: &str = "listener";
/// Messages that the management API gives at a time.
const BATCH: usize = 2_000;

/// A queue that gets what every replica gets.
pub struct Listener {
    management: Management,
    vhost: String,
}

impl Listener {
    /// Hears nothing yet.
    pub fn on(vhost: &TestVhost) -> Self {
        Self {
            management: vhost.management().clone(),
            vhost: vhost.name().to_owned(),
        }
    }

    /// Hears what is published from now on. The exchange must be there.
    pub fn listen(&self) {
        self.management
            .bind_queue(&self.vhost, EXCHANGE, QUEUE)
            .expect("a queue of one's own");
    }

    /// Everything heard so far, judged by [`Heard::take`].
    pub fn heard(&self) -> Heard {
        let mut heard = Heard::default();
        self.each(|message| heard.take(message));
        heard
    }

    /// Every message heard so far.
    pub fn each(&self, mut take: impl FnMut(&Value)) {
        loop {
            let messages = self
                .management
                .get_messages(&self.vhost, QUEUE, BATCH)
                .expect("the queue gives its messages");
            if messages.is_empty() {
                return;
            }
            messages.iter().for_each(&mut take);
        }
    }
}

/// The changes in a stream.
#[derive(Default)]
pub struct Heard {
    /// Bodies by their number.
    bodies: HashMap<(i64, i64), String>,
    versions: HashMap<i64, i64>,
    last: Option<(i64, i64)>,
    /// Changes that came once more.
    pub repeated: usize,
    /// Of those, the ones that came behind a higher number.
    pub late: usize,
}

impl Heard {
    /// Different numbers.
    pub fn numbers(&self) -> usize {
        self.bodies.len()
    }

    /// Numbers rise without a hole, a repeated one says the same, and no user's version goes back.
    fn take(&mut self, message: &Value) {
        let kind = message["properties"]["type"].as_str().unwrap_or_default();
        let text = message["payload"].as_str().expect("a payload");
        let body: Value = serde_json::from_str(text).expect("JSON");
        let field = |name: &str| body[name].as_i64();
        let (Some(sequence), true) = (
            field("sequence"),
            ["user.updated", "user.deleted"].contains(&kind),
        ) else {
            return;
        };
        let number = (field("epoch").expect("an epoch"), sequence);
        if let Some(former) = self.bodies.insert(number, text.to_owned()) {
            assert_eq!(former, text, "two changes have the number {number:?}");
            self.repeated += 1;
            self.late += usize::from(Some(number) < self.last);
            return;
        }
        if let Some(last) = self.last {
            assert_eq!(number, (last.0, last.1 + 1), "behind {last:?}");
        }
        self.last = Some(number);
        let version = field("version").expect("a version");
        let former = self
            .versions
            .insert(field("user_id").expect("a user"), version);
        assert!(
            former.is_none_or(|former| former < version),
            "{former:?} before {text}"
        );
    }
}

/// Asks the replicas, without end, for users that are made inactive in the order of their names and stay so: a replica
/// that refused one must not let it in again.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
}

impl Watch {
    /// Watches users made by [`App::bulk_users`].
    pub fn start(replicas: &[Node]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let urls: Vec<String> = replicas.iter().map(|replica| replica.url.clone()).collect();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let http = Http::new();
            let mut frontiers = vec![0; urls.len()];
            let mut again = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                for (url, frontier) in urls.iter().zip(&mut frontiers) {
                    if status(&http, url, *frontier + 1) == 403 {
                        *frontier += 1;
                    }
                    if *frontier > 0 {
                        let earlier = again * 7_919 % *frontier + 1;
                        assert_eq!(status(&http, url, earlier), 403, "user-{earlier} at {url}");
                        again += 1;
                    }
                }
                // Paces the questions: the machine is the services'.
                thread::sleep(Duration::from_millis(5));
            }
            (frontiers.into_iter().min().unwrap_or(0), again)
        });
        Self { stop, thread }
    }

    /// How many users were refused everywhere, and how often one of them was asked for again.
    ///
    /// # Panics
    /// When a replica had let one in again.
    pub fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no replica lets anyone in again")
    }
}

fn status(http: &Http, url: &str, user: u64) -> u16 {
    let key = bulk_key(&format!("user-{user}"));
    let url = format!("{url}/api/v1/sms/send");
    http.call("POST", &url, Some(("api-key", &key)), Some(&json!({})))
        .expect("the replica answers")
        .status
}

/// Waits for an audit of the tables, then for every replica's proof: cache, digest and tables are equal. Needs a short
/// `AUDIT_INTERVAL_SECONDS`.
pub fn assert_equal(app: &App, deadline: Duration) {
    app.converged(deadline);
    let audits = || -> i64 {
        app.sql("SELECT audits FROM relay_state")
            .parse()
            .unwrap_or(0)
    };
    // Of one that has ended already the read may be older than the last change.
    let needed = audits() + 2;
    eventually(deadline, "two audits", || {
        ensure!(audits() >= needed, "{} of {needed}", audits());
        Ok(())
    });
    app.converged(deadline);
}

/// A metric that counts; see [`Node::metric`].
pub fn counter(app: &App, node: &Node, name: &str, labels: &str) -> u64 {
    let sum = node.metric(app.http(), name, labels);
    // The sum of no series at all is -0.
    format!("{:.0}", sum.abs()).parse().expect("a count")
}
