//! A stand-in for kube-state-metrics, which only a cluster has: the series of one resync Job that dashboards and rules ask
//! for, named and labelled as its documentation has them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

const JOB: &str = r#"namespace="local",job_name="demo-identity-sync-resync""#;

/// A listener on the loopback; its thread ends with the process.
pub struct KubeState {
    pub url: String,
    failed: Arc<AtomicBool>,
}

impl KubeState {
    /// The Job has succeeded.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("binding")?;
        let url = format!("http://{}", listener.local_addr()?);
        let failed = Arc::<AtomicBool>::default();
        let of_thread = Arc::clone(&failed);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // One that went away is Prometheus' to tell.
                let _ = answer(stream, of_thread.load(Ordering::Relaxed));
            }
        });
        Ok(Self { url, failed })
    }

    /// From now on the Job has failed.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        text(self.failed.load(Ordering::Relaxed))
    }
}

fn answer(mut stream: TcpStream, failed: bool) -> Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = text(failed);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn text(failed: bool) -> String {
    let (failed, succeeded) = (u8::from(failed), u8::from(!failed));
    format!(
        "kube_job_status_active{{{JOB}}} 0\n\
         kube_job_status_succeeded{{{JOB}}} {succeeded}\n\
         kube_job_status_failed{{{JOB}}} {failed}\n\
         kube_job_failed{{{JOB},condition=\"true\"}} {failed}\n\
         kube_job_failed{{{JOB},condition=\"false\"}} 0\n\
         kube_job_failed{{{JOB},condition=\"unknown\"}} 0\n"
    )
}
