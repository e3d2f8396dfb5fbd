//! `server-b users import`: a CSV file becomes users, in one transaction.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use service_runtime::config::DatabaseArgs;

use super::connect_migrated;
use super::output::open;
use super::progress::Progress;
use super::replicas::WaitArgs;
use super::rows::{FAULTS_SHOWN, Fault, Faults, Rows};
use crate::actor::Actor;
use crate::keys::{KeyArgs, KeyRing};
use crate::users::{Applied, Conflict, Import, ImportRow, ImportedKey, OnConflict};

pub const EXAMPLES: &str =
    "The file begins with a header: username, and any of is_active, daily_quota and api_key.
A key that is missing or empty is generated for a new user, and stays for one that exists.
The whole file is imported, or nothing of it: users that it changes are locked until it is done.

Examples:
  server-b users import users.csv --generated-keys-out keys.csv
  server-b users import users.csv --on-conflict update --wait --wait-seconds 300
  zcat users.csv.gz | server-b users import - --generated-keys-out keys.csv";

/// Rows in one step.
const BATCH: u32 = 1000;

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// CSV file, `-` for stdin
    file: PathBuf,
    /// What to do with a username that exists
    #[arg(long, default_value = "fail", value_name = "ACTION")]
    on_conflict: OnConflict,
    /// File to make (it must not exist) for the generated keys, as CSV `username,api_key`, readable
    /// by its owner only; needed when a key has to be generated
    #[arg(long, value_name = "FILE")]
    generated_keys_out: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let keys = KeyRing::from_args(&args.keys)?;
    let input = spool(&args.file)?;
    let pool = connect_migrated(&args.database).await?;
    let actor = Actor::command_line();
    let mut import = Import::begin(&pool, &actor, args.on_conflict).await?;
    stage(&mut import, &keys, input).await?;
    let mut keys_file = KeysFile::open(&mut import, args.generated_keys_out.as_deref()).await?;
    let done = apply(&mut import, &keys, keys_file.as_mut()).await?;
    // Before the commit: if its answer is lost, the keys may be valid.
    if let Some(file) = keys_file {
        file.keep();
    }
    import
        .commit()
        .await
        .context("the commit failed; if its answer was lost, all users are imported, else none")?;
    println!(
        "{} users created, {} updated, {} skipped",
        done.created, done.updated, done.skipped
    );
    args.wait.wait(&pool).await
}

/// What comes from a pipe is kept on disk first: a transaction must not wait for it.
fn spool(path: &Path) -> anyhow::Result<Box<dyn Read>> {
    let mut input = open(path)?;
    if path != Path::new("-") && path.metadata().is_ok_and(|it| it.is_file()) {
        return Ok(input);
    }
    let mut file = tempfile::tempfile().context("cannot make a temporary file")?;
    std::io::copy(&mut input, &mut file).context("cannot read the CSV file")?;
    file.rewind().context("cannot read a temporary file")?;
    Ok(Box::new(file))
}

/// Reads all rows, and refuses the file if anything is wrong with any of them.
async fn stage(import: &mut Import, keys: &KeyRing, input: impl Read) -> anyhow::Result<()> {
    let mut rows = Rows::new(input)?;
    let mut faults = Faults::default();
    let mut progress = Progress::new("check", "lines");
    loop {
        let batch = next_batch(&mut rows, &mut faults)?;
        if batch.is_empty() {
            break;
        }
        import.stage(keys, batch).await?;
        progress.set(import.staged(), None);
    }
    let shown = i64::try_from(FAULTS_SHOWN).unwrap_or(i64::MAX);
    let conflicts = import.conflicts(shown).await?;
    if let Some(first) = conflicts.first() {
        faults.count(first.total.unsigned_abs() - conflicts.len() as u64);
    }
    for conflict in conflicts {
        faults.push(fault(conflict));
    }
    drop(progress);
    faults.refuse()
}

fn next_batch(rows: &mut Rows<impl Read>, faults: &mut Faults) -> anyhow::Result<Vec<ImportRow>> {
    let mut batch = Vec::new();
    while batch.len() < BATCH as usize
        && let Some(row) = rows.next_row()?
    {
        match row {
            Ok(row) => batch.push(row),
            Err(fault) => faults.push(fault),
        }
    }
    Ok(batch)
}

fn fault(conflict: Conflict) -> Fault {
    Fault {
        line: conflict.line.unsigned_abs(),
        column: conflict.column.into(),
        message: conflict.message,
    }
}

async fn apply(
    import: &mut Import,
    keys: &KeyRing,
    mut keys_file: Option<&mut KeysFile>,
) -> anyhow::Result<Applied> {
    let total = import.staged();
    let mut progress = Progress::new("import", "users");
    let (mut sum, mut done) = (Applied::default(), 0);
    while done < total {
        let applied = import
            .apply(keys, done, BATCH)
            .await
            .context("nothing was imported")?;
        if let Some(file) = keys_file.as_deref_mut() {
            file.append(&applied.keys)?;
        }
        sum.created += applied.created;
        sum.updated += applied.updated;
        sum.skipped += applied.skipped;
        done = total.min(done + u64::from(BATCH));
        progress.set(done, Some(total));
    }
    // On disk before the commit: a key that is lost cannot be shown again.
    if let Some(file) = keys_file {
        file.file
            .sync_data()
            .context("nothing was imported: cannot write the generated keys")?;
    }
    Ok(sum)
}

/// The file for generated keys. It goes again if the import comes to nothing: its keys are void.
struct KeysFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl KeysFile {
    /// The file, if any key has to be generated.
    async fn open(import: &mut Import, path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(line) = import.first_without_key().await? else {
            return Ok(None);
        };
        let Some(path) = path else {
            bail!(
                "nothing was imported: line {line} has no api_key, so one has to be generated, and it is known \
                 only once: name a file for it with --generated-keys-out"
            );
        };
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .with_context(|| {
                format!(
                    "nothing was imported: cannot make --generated-keys-out {}",
                    path.display()
                )
            })?;
        let mut made = Self {
            file,
            path: path.to_owned(),
            kept: false,
        };
        made.write(b"username,api_key\n")?;
        Ok(Some(made))
    }

    fn append(&mut self, keys: &[ImportedKey]) -> anyhow::Result<()> {
        let mut text = csv::Writer::from_writer(Vec::new());
        for key in keys {
            text.write_record([key.username.as_str(), key.api_key.expose()])?;
        }
        let text = text
            .into_inner()
            .context("nothing was imported: cannot write the generated keys")?;
        self.write(&text)
    }

    fn write(&mut self, text: &[u8]) -> anyhow::Result<()> {
        self.file
            .write_all(text)
            .with_context(|| format!("nothing was imported: cannot write {}", self.path.display()))
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for KeysFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "a file of keys that were never used stays");
        }
    }
}
