//! The programs that come from no package manager: built from Go modules once, and kept in the user's cache directory.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;
use crate::interrupt::Interrupt;
use crate::workspace;

/// Programs of one Go module that are built together.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Of the cache directory, before the version.
    name: &'static str,
    /// Below `k8s/cluster/tools`: the directory whose go.mod pins everything.
    pins: &'static str,
    /// The Go module whose version counts.
    module: &'static str,
    /// Packages of the module; a program is called like its package's last part.
    packages: &'static [&'static str],
    /// Variables that the linker sets; `{version}`, `{major}` and `{minor}` are replaced.
    variables: &'static [&'static str],
}

/// The control plane, the node's programs and kubectl.
pub const KUBERNETES: Tool = Tool {
    name: "kubernetes",
    pins: "kubernetes",
    module: "k8s.io/kubernetes",
    packages: &[
        "cmd/kube-apiserver",
        "cmd/kube-controller-manager",
        "cmd/kube-scheduler",
        "cmd/kubelet",
        "cmd/kube-proxy",
        "cmd/kubectl",
    ],
    // Without them everything calls itself v0.0.0, and a chart's `kubeVersion` refuses the cluster.
    variables: &[
        "k8s.io/component-base/version.gitVersion=v{version}",
        "k8s.io/component-base/version.gitMajor={major}",
        "k8s.io/component-base/version.gitMinor={minor}",
        "k8s.io/component-base/version.gitTreeState=clean",
    ],
};

/// The cluster's name server.
pub const COREDNS: Tool = Tool {
    name: "coredns",
    pins: "coredns",
    module: "github.com/coredns/coredns",
    packages: &[""],
    variables: &[],
};

/// Helm 3.
pub const HELM3: Tool = Tool {
    name: "helm",
    pins: "helm",
    module: "helm.sh/helm/v3",
    packages: &["cmd/helm"],
    // The Kubernetes that `helm template` and `helm lint` assume; unset, that is 1.20.
    variables: &[
        "helm.sh/helm/v3/internal/version.version=v{version}",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1",
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=34",
    ],
};

/// Helm 4.
pub const HELM4: Tool = Tool {
    module: "helm.sh/helm/v4",
    variables: &["helm.sh/helm/v4/internal/version.version=v{version}"],
    ..HELM3
};

/// Checks manifests against the schemas of Kubernetes.
pub const KUBECONFORM: Tool = Tool {
    name: "kubeconform",
    pins: "helm",
    module: "github.com/yannh/kubeconform",
    packages: &["cmd/kubeconform"],
    variables: &[],
};

/// Tests of the chart's templates.
pub const HELM_UNITTEST: Tool = Tool {
    name: "helm-unittest",
    pins: "chart",
    module: "github.com/helm-unittest/helm-unittest",
    packages: &["cmd/helm-unittest"],
    variables: &[],
};

/// Runs the language of the Tiltfile.
pub const STARLARK: Tool = Tool {
    name: "starlark",
    pins: "chart",
    module: "go.starlark.net",
    packages: &["cmd/starlark"],
    variables: &[],
};

/// Puts bases and overlays together.
pub const KUSTOMIZE: Tool = Tool {
    name: "kustomize",
    pins: "kustomize",
    module: "sigs.k8s.io/kustomize/kustomize/v5",
    packages: &[""],
    variables: &[],
};

impl Tool {
    /// The directory of the programs, which are built first unless an earlier run has kept them.
    pub fn ensure(&self, state_dir: &Path, interrupt: &Interrupt) -> Result<PathBuf> {
        let dir = self.cache_dir()?;
        let _entry = lock_entry(&dir)?;
        if self.is_built(&dir) {
            return Ok(dir);
        }
        ensure!(
            go_works(),
            "Go is not installed, or too old; the cluster's programs are built with Go 1.26 or later"
        );
        let began = Instant::now();
        let name = dir.file_name().unwrap_or_default().display();
        println!("Building {name} from its Go module, once …");
        let partial = partial(&dir);
        fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
        for package in self.packages {
            self.build(package, &partial, state_dir, interrupt)?;
        }
        let _ = fs::remove_dir_all(&dir);
        fs::rename(&partial, &dir).with_context(|| format!("creating {}", dir.display()))?;
        println!("Built it in {:.0} s.", began.elapsed().as_secs_f64());
        Ok(dir)
    }

    /// Whether an earlier run has kept the programs.
    pub fn is_cached(&self) -> Result<bool> {
        Ok(self.is_built(&self.cache_dir()?))
    }

    fn is_built(&self, dir: &Path) -> bool {
        self.packages
            .iter()
            .all(|package| dir.join(self.program(package)).exists())
    }

    /// The path of a package, and the program's name.
    fn program<'a>(&'a self, package: &'a str) -> &'a str {
        let path = if package.is_empty() {
            self.module
        } else {
            package
        };
        path.rsplit('/').next().unwrap_or(path)
    }

    fn build(
        &self,
        package: &str,
        into: &Path,
        state_dir: &Path,
        interrupt: &Interrupt,
    ) -> Result<()> {
        let path = [self.module, package].join("/");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nice", "go", "build"])
            .args(["-trimpath", "-buildvcs=false", "-ldflags"])
            .arg(self.linker_flags()?)
            .arg("-o")
            .arg(into.join(self.program(package)))
            .arg(path.trim_end_matches('/'))
            .env("CGO_ENABLED", "0")
            .env(test_support::children::MARK, state_dir)
            .current_dir(self.pins_dir()?);
        cargo::run(command, interrupt)
    }

    fn linker_flags(&self) -> Result<String> {
        let version = self.version()?;
        let mut parts = version.split('.');
        let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
        let mut flags = "-s -w".to_owned();
        for variable in self.variables {
            let value = variable
                .replace("{version}", &version)
                .replace("{major}", major)
                .replace("{minor}", minor);
            flags = format!("{flags} -X {value}");
        }
        Ok(flags)
    }

    fn cache_dir(&self) -> Result<PathBuf> {
        Ok(cache_dir()?.join(format!("{}-{}", self.name, self.version()?)))
    }

    fn pins_dir(&self) -> Result<PathBuf> {
        Ok(workspace::root()?.join("k8s/cluster/tools").join(self.pins))
    }

    /// As go.mod pins it, without the `v`.
    fn version(&self) -> Result<String> {
        let file = self.pins_dir()?.join("go.mod");
        let go_mod =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let version = required_version(&go_mod, self.module)
            .with_context(|| format!("{} requires no {}", file.display(), self.module))?;
        Ok(version.trim_start_matches('v').to_owned())
    }
}

/// What this project keeps for all checkouts of a user.
pub fn cache_dir() -> Result<PathBuf> {
    let of_user = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let dir = match of_user {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(dir.join("identity-sync"))
}

/// Taken before an entry of the cache is looked for and made, so that only one process makes it; held until dropped.
pub fn lock_entry(entry: &Path) -> Result<File> {
    let dir = entry.parent().context("an entry has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = beside(entry, "lock");
    let open = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let file = open.with_context(|| format!("opening {}", path.display()))?;
    file.lock()
        .with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Where an entry is made before it gets its name. What a run that did not come to its end left there is removed.
pub fn partial(entry: &Path) -> PathBuf {
    let partial = beside(entry, "partial");
    // One of them fails: it is a file or a directory, or nothing.
    let _ = fs::remove_dir_all(&partial);
    let _ = fs::remove_file(&partial);
    partial
}

fn beside(entry: &Path, what: &str) -> PathBuf {
    let mut name = entry.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// The version of a module, as go.mod has it.
pub fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim_start_matches("require").split_whitespace();
        (words.next()? == module).then(|| words.next())?
    })
}

/// Asked where the pins are: there Go fetches a newer one of itself, where it may.
pub fn go_works() -> bool {
    let dir = KUBERNETES.pins_dir();
    let mut command = Command::new("go");
    dir.is_ok_and(|dir| {
        let output = command.arg("version").current_dir(dir).output();
        output.is_ok_and(|output| output.status.success())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_in_a_require_block_and_in_a_line_of_its_own() {
        let go_mod = "module m\n\ntool (\n\ta/b/cmd/c\n)\n\nrequire (\n\ta/b v1.2.3\n\ta/bc v9.9.9 // indirect\n)\n\n\
                      require d/e v0.1.0\n";
        assert_eq!(required_version(go_mod, "a/b"), Some("v1.2.3"));
        assert_eq!(required_version(go_mod, "d/e"), Some("v0.1.0"));
        assert_eq!(required_version(go_mod, "a"), None);
    }

    #[test]
    fn every_tool_is_pinned() {
        for tool in [
            KUBERNETES,
            COREDNS,
            HELM3,
            HELM4,
            KUBECONFORM,
            HELM_UNITTEST,
            STARLARK,
            KUSTOMIZE,
        ] {
            let version = tool.version().expect("go.mod names it");
            assert_eq!(version.split('.').count(), 3, "{} {version}", tool.module);
        }
    }

    #[test]
    fn programs_are_called_like_their_packages() {
        assert_eq!(KUBERNETES.program("cmd/kubelet"), "kubelet");
        assert_eq!(COREDNS.program(""), "coredns");
    }
}
