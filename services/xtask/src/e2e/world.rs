//! The installed release, and how the scenarios reach it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use serde_json::{Value, json};
use test_support::{Answer, Http};

use crate::cluster::Kubectl;
use crate::interrupt::Interrupt;
use crate::process::run;

/// The release, as a reader of the README would name it.
pub const RELEASE: &str = "demo";
/// What the names of its objects begin with.
const FULL_NAME: &str = "demo-identity-sync";
/// What runs all the time.
pub const COMPONENTS: [&str; 5] = [
    "rabbitmq",
    "postgresql",
    "server-b",
    "server-a",
    "user-service",
];
/// Longest wait for a pod or a Job.
const DEADLINE: Duration = Duration::from_mins(3);
/// Between two looks: each starts a kubectl.
const PAUSE: Duration = Duration::from_millis(300);

/// See the module's documentation.
#[derive(Debug)]
pub struct World {
    /// kubectl for the cluster.
    pub kubectl: Kubectl,
    /// Helm.
    pub helm: PathBuf,
    /// Where everything is installed.
    pub namespace: String,
    /// The chart.
    pub chart: PathBuf,
    /// Names of images, which stand in for the chart's defaults.
    pub values: PathBuf,
    /// Tag of the images that are installed first, and the one that is upgraded to.
    pub tags: [String; 2],
    /// The client of the load.
    pub load_image: String,
    /// The cluster is a throwaway one, with its processes on this machine.
    pub throwaway: bool,
    /// Looked at by each wait.
    pub interrupt: Interrupt,
    /// HTTP client.
    pub http: Http,
    /// Who sends the SMS, once there is a server B.
    pub user: OnceLock<User>,
}

/// A user made by a scenario.
#[derive(Debug, Clone)]
pub struct User {
    /// Primary key.
    pub id: i64,
    /// API key.
    pub key: String,
}

/// A port of a pod or Service on the loopback, until it is dropped.
#[derive(Debug)]
pub struct Forward {
    kubectl: Child,
    /// Kept open: kubectl ends when it cannot write to it.
    stdout: BufReader<ChildStdout>,
    /// Base URL.
    pub url: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Name of a component's objects.
pub fn name(component: &str) -> String {
    format!("{FULL_NAME}-{component}")
}

/// Selects a component's pods.
pub fn component(name: &str) -> String {
    format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={name}")
}

impl World {
    /// Waits until `probe` gives a value; an error at the deadline tells what it said last.
    pub fn eventually<T>(&self, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + DEADLINE;
        loop {
            self.interrupt.check()?;
            match probe() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() >= end => {
                    bail!("waited in vain for {what}: {error:#}")
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// An error if `probe` gives one within so long.
    pub fn throughout(&self, time: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.interrupt.check()?;
            probe()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// kubectl in the namespace of the release.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl
            .run(&[&["--namespace", &self.namespace], arguments].concat())
    }

    /// What kubectl gets, as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text).context("kubectl's JSON")
    }

    /// Helm in the namespace of the release.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.kubectl.of(&self.helm);
        command
            .args(["--namespace", &self.namespace])
            .args(arguments);
        run(&mut command)
    }

    /// `helm install` or `upgrade` of the chart, with `--wait` and the images of this machine.
    pub fn deploy(&self, verb: &str, tag: &str, settings: &[&str]) -> Result<String> {
        let chart = self.chart.to_str().context("a path that is no text")?;
        let values = self.values.to_str().context("a path that is no text")?;
        let tag = format!("image.tag={tag}");
        let mut arguments = vec![
            verb,
            RELEASE,
            chart,
            "--values",
            values,
            "--set-string",
            &tag,
            "--wait",
        ];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.helm(&arguments)
    }

    /// The pods of a component that are not about to end.
    pub fn pods(&self, component: &str) -> Result<Vec<Value>> {
        let pods = self.get(&["pods", "--selector", &self::component(component)])?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        Ok(pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .cloned()
            .collect())
    }

    /// Waits until so many pods of a component are there and all are ready.
    pub fn wait_ready(&self, component: &str, count: usize) -> Result<()> {
        self.eventually(&format!("{count} ready pods of {component}"), || {
            let pods = self.pods(component)?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(
                pods.len() == count && ready == count,
                "{ready} of {} are ready",
                pods.len()
            );
            Ok(())
        })
    }

    /// Opens a port of `pod/…` or `service/…`.
    pub fn forward(&self, target: &str, port: u16) -> Result<Forward> {
        let mut child = self
            .kubectl
            .command(&[
                "--namespace",
                &self.namespace,
                "port-forward",
                target,
                &format!(":{port}"),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting kubectl")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut forward = Forward {
            kubectl: child,
            stdout: BufReader::new(stdout),
            url: String::new(),
        };
        let mut line = String::new();
        forward.stdout.read_line(&mut line)?;
        // Forwarding from 127.0.0.1:40123 -> 8080
        let address = line
            .split_whitespace()
            .nth(2)
            .with_context(|| format!("port {port} of {target} cannot be forwarded"))?;
        forward.url = format!("http://{address}");
        Ok(forward)
    }

    /// Calls server B's admin API.
    pub fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let secret = self.get(&["secret", &name("server-b")])?;
        let token = secret["data"]["admin-token"].as_str().unwrap_or_default();
        let token = base64::engine::general_purpose::STANDARD.decode(token)?;
        let bearer = format!("Bearer {}", String::from_utf8(token)?);
        let server_b = self.forward(&format!("service/{}", name("server-b")), 8080)?;
        let url = format!("{}/admin/v1{path}", server_b.url);
        self.http
            .call(method, &url, Some(("authorization", &bearer)), body)
    }

    /// Creates the user of the scenarios; every live replica knows it then.
    pub fn create_user(&self) -> Result<()> {
        // The load sends for as long as it takes.
        let body = json!({"username": "e2e", "daily_quota": i32::MAX});
        let answer = self.admin("POST", "/users?wait=all", Some(&body))?;
        ensure!(answer.status == 201, "{}", answer.text);
        let waiting = answer.header("replicas-waiting");
        ensure!(waiting.is_empty(), "the user is yet to reach {waiting}");
        let key = answer.body["api_key"].as_str().context("api_key")?;
        let user = User {
            id: answer.body["user_id"].as_i64().context("user_id")?,
            key: key.to_owned(),
        };
        ensure!(self.user.set(user).is_ok(), "the user is there");
        Ok(())
    }

    /// The user of the scenarios.
    pub fn user(&self) -> Result<&User> {
        self.user.get().context("no user was created")
    }

    /// Waits until an SMS is accepted by a pod of A, stored by B with the caller's id and handed to the provider, and until
    /// B knows every pod of A as proven.
    pub fn works(&self) -> Result<()> {
        let user = self.user()?;
        let body = json!({"to": "+14155550123", "from": "ACME", "body": "e2e"});
        let key = Some(("api-key", user.key.as_str()));
        // After an outage a pod may have to connect first: it says to come again.
        let answer = self.eventually("an accepted SMS", || {
            let server_a = self.forward(&format!("service/{}", name("server-a")), 8080)?;
            let url = format!("{}/api/v1/sms/send", server_a.url);
            let answer = self.http.call("POST", &url, key, Some(&body))?;
            ensure!(answer.status == 202, "{}: {}", answer.status, answer.text);
            Ok(answer)
        })?;
        let id = answer.body["message_id"].as_str().context("message_id")?;
        self.eventually("the SMS to be sent", || {
            let row = self.sql(&format!(
                "SELECT user_id || ' ' || status FROM sms_messages WHERE message_id = '{id}'"
            ))?;
            ensure!(row == format!("{} sent", user.id), "{row}");
            Ok(())
        })?;
        self.eventually("each pod of A to be proven", || {
            let known = self.admin("GET", "/replicas", None)?.body;
            for pod in self.pods("server-a")? {
                let pod = name_of(&pod);
                let mut replicas = known["replicas"].as_array().into_iter().flatten();
                let replica = replicas.find(|replica| replica["instance"] == pod.as_str());
                let replica = replica.with_context(|| format!("B does not know {pod}: {known}"))?;
                ensure!(!replica["proven_sequence"].is_null(), "{replica}");
            }
            Ok(())
        })
    }

    /// The status of an invalid send: 422 says that the key is accepted, 401 unknown, 403 inactive.
    pub fn verdict(&self, target: &str, key: &str) -> Result<u16> {
        let server_a = self.forward(target, 8080)?;
        let url = format!("{}/api/v1/sms/send", server_a.url);
        let answer = self
            .http
            .call("POST", &url, Some(("api-key", key)), Some(&json!({})))?;
        Ok(answer.status)
    }

    /// Runs SQL in server B's database.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let pod = format!("pod/{}-0", name("postgresql"));
        let psql = [
            "exec",
            &pod,
            "--",
            "psql",
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--username=postgres",
            "--set=ON_ERROR_STOP=1",
            "--dbname=identity_sync",
            "--command",
            sql,
        ];
        Ok(self.kubectl(&psql)?.trim().to_owned())
    }

    /// What the resync Job wrote down of its last run.
    pub fn resync_result(&self) -> Result<Value> {
        Ok(self.get(&["configmap", &name("resync")])?["data"].clone())
    }

    /// Number of the newest resync that succeeded; each one that begins has the next number.
    pub fn newest_resync(&self) -> Result<u64> {
        let result = self.resync_result()?;
        let number = result["succeeded"].as_str().unwrap_or("0");
        number.parse().context("data.succeeded")
    }

    /// What to look at when a scenario failed.
    pub fn describe_failure(&self) -> String {
        let looks: [&[&str]; 3] = [
            &["get", "pods,jobs", "--output=wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &[
                "logs",
                "--selector=app.kubernetes.io/component notin (rabbitmq)",
                "--all-containers",
                "--tail=15",
                "--prefix",
            ],
        ];
        let said = looks.map(|look| {
            self.kubectl(look)
                .unwrap_or_else(|error| format!("{error:#}"))
        });
        said.join("\n")
    }
}

/// Whether the pod's condition `Ready` is true.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// An object's name.
pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
