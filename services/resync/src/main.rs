//! `resync`: see `resync --help`.

use std::process::ExitCode;

use resync::cli::{Cli, Command};
use resync::failure::USAGE;
use resync::{job, smoke_test};
use service_runtime::config::command_line;
use service_runtime::telemetry;

#[tokio::main]
async fn main() -> ExitCode {
    service_runtime::install_crypto_provider();
    let mut cli: Cli = command_line(|_: &Cli| false, |cli| &mut cli.telemetry);
    // What it says of a call that fails, we say too, with what the call was for.
    cli.telemetry.log = format!("kube_client::client::builder=off,{}", cli.telemetry.log);
    // Held to the end, so that traces are flushed however main ends.
    let _guard = match telemetry::init("resync", &cli.telemetry) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("resync: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    match cli.command {
        Command::Run(args) => job::run(&args).await,
        Command::SmokeTest(args) => smoke_test::run(&args).await,
    }
}
