//! Docker or Buildah, whichever works here.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use test_support::servers::packages;

use crate::process::run;

/// A program that builds images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The Docker client, with a daemon that runs.
    Docker,
    /// Buildah, which needs no daemon.
    Buildah,
}

impl Engine {
    /// Docker if its daemon answers, else Buildah, which is installed if need be.
    pub fn find() -> Result<Self> {
        let docker = Command::new("docker")
            .args(["info", "--format", "{{.ServerVersion}}"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if docker.is_ok_and(|status| status.success()) {
            return Ok(Self::Docker);
        }
        packages::ensure_programs(&[("buildah", "buildah")])
            .context("images need Buildah, or a Docker daemon that runs")?;
        Ok(Self::Buildah)
    }

    /// Builds `context/Dockerfile`. `time`, in seconds since 1970, is that of the image and its files.
    pub fn build(
        self,
        context: &Path,
        image: &str,
        labels: &[(&str, String)],
        time: u64,
    ) -> Result<()> {
        let mut command = self.command();
        command.args(["build", "--quiet"]);
        match self {
            Self::Docker => command.env("SOURCE_DATE_EPOCH", time.to_string()),
            Self::Buildah => command.arg(format!("--timestamp={time}")),
        };
        for (name, value) in labels {
            command.arg(format!("--label={name}={value}"));
        }
        command.args(["--tag", image]).arg(context);
        run(&mut command).map(|_| ())
    }

    /// Writes an image to a file that `ctr images import` and `docker load` read.
    pub fn export(self, image: &str, archive: &Path) -> Result<()> {
        let mut command = self.command();
        match self {
            Self::Docker => command.args(["save", "--output"]).arg(archive).arg(image),
            Self::Buildah => {
                // It does not replace a file.
                let _ = std::fs::remove_file(archive);
                let to = format!("docker-archive:{}:{image}", archive.display());
                command.args(["push", "--quiet", image, &to])
            }
        };
        run(&mut command).map(|_| ())
    }

    /// Removes an image from the engine's store.
    pub fn remove(self, image: &str) -> Result<()> {
        run(self.command().args(["rmi", image])).map(|_| ())
    }

    /// Bytes of an image's layers.
    pub fn size(self, image: &str) -> Result<u64> {
        let mut command = self.command();
        let size = match self {
            Self::Docker => {
                run(command.args(["image", "inspect", "--format", "{{.Size}}", image]))?
            }
            Self::Buildah => {
                let said = run(command.args(["images", "--json", image]))?;
                let images: serde_json::Value = serde_json::from_str(&said)?;
                images[0]["size"].as_str().unwrap_or_default().to_owned()
            }
        };
        bytes(&size).with_context(|| format!("the size of {image}"))
    }

    fn command(self) -> Command {
        Command::new(match self {
            Self::Docker => "docker",
            Self::Buildah => "buildah",
        })
    }
}

/// A number of bytes as the engines write it: `123`, or `12.3 MB`.
fn bytes(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next() {
        None | Some("B" | "bytes") => 1.0,
        Some("KB" | "kB") => 1e3,
        Some("MB") => 1e6,
        Some("GB") => 1e9,
        Some(_) => return None,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes of images"
    )]
    Some((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_either_engine_writes_them() {
        assert_eq!(bytes("123\n"), Some(123));
        assert_eq!(bytes("12.5 MB"), Some(12_500_000));
        assert_eq!(bytes("much"), None);
    }
}
