//! The CNI runtime: runs the chain of a conflist for one attachment (CNI specification 1.0.0 and
//! 1.1.0, sections 2 and 3).
//!
//! Blocking, and run on the thread of a node, whose namespaces the plugins inherit. Knows nothing
//! of nodes, pods or routes: that is the profile's.

use super::{
    config::{ConfList, Request, check_identifier},
    error::{Fault, PluginError, Reported},
    interrupt::Token,
    process::{self, CommandName, Limits, Output},
    result::AddResult,
    version::CniVersion,
};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, time::Duration};

/// What a DEL may still take when nobody waits for it any more: plugins may keep state outside of
/// the node's namespaces, which only they can remove.
const DEL_GRACE: Duration = Duration::from_secs(2);

/// One container at one network: what the runtime passes with every call.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`: path of the pod's network namespace.
    pub netns: PathBuf,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// Arguments by capability; a plugin gets those that it declares.
    pub capability_args: Map<String, Value>,
}

impl Attachment {
    /// Checks what the specification says of the container id and Linux of an interface name.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        check_identifier("container id", &self.container_id).map_err(|e| e.to_string())?;
        let legal = |c: char| !c.is_whitespace() && c != '/' && c != ':' && c != '\0';
        if matches!(self.ifname.as_str(), "" | "." | "..")
            || self.ifname.len() > 15
            || !self.ifname.chars().all(legal)
        {
            return Err(format!(
                "interface name {:?} is not allowed: 1 to 15 characters, no '/', ':' or space",
                self.ifname
            ));
        }
        Ok(())
    }
}

/// How CHECK ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Every plugin says that all is as it should be.
    Passed,
    /// Not called, and the specification says so.
    Skipped(&'static str),
}

/// A failed ADD, after the chain was asked to undo what had been done.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", undo_text(undo))]
pub struct AddFailure {
    /// The plugin that failed.
    pub error: Box<PluginError>,
    /// What went wrong in the DEL that followed.
    pub undo: Vec<PluginError>,
}

fn undo_text(undo: &[PluginError]) -> String {
    undo.iter().map(|e| format!("; then, undoing it, {e}")).collect()
}

/// Runs one conflist.
#[derive(Debug, Clone)]
pub struct Runtime {
    list: ConfList,
    version: CniVersion,
    dirs: Vec<PathBuf>,
    deadline: Duration,
    token: Token,
}

impl Runtime {
    /// A runtime that looks for plugins in `dirs` and gives each call `deadline`. It speaks the
    /// newest version of the list until [`Runtime::negotiate`] has asked the plugins.
    pub fn new(list: ConfList, dirs: Vec<PathBuf>, deadline: Duration) -> Self {
        Self { version: list.newest(), list, dirs, deadline, token: Token::default() }
    }

    /// The same, its calls given up when `token` is over: at once, DEL after a moment of grace.
    pub fn while_wanted(&self, token: Token) -> Self {
        Self { token, ..self.clone() }
    }

    /// The list.
    pub fn list(&self) -> &ConfList {
        &self.list
    }

    /// The version it speaks to the plugins.
    pub fn version(&self) -> CniVersion {
        self.version
    }

    /// Every binary the list needs, IPAM plugins too; nothing is run.
    ///
    /// # Errors
    /// The first that is missing or not executable.
    pub fn find_all(&self) -> Result<Vec<PathBuf>, PluginError> {
        let names = self.list.plugins.iter().flat_map(|p| [Some(p.plugin.as_str()), p.ipam()]);
        names
            .flatten()
            .map(|name| {
                process::find(name, &self.dirs).map_err(|fault| PluginError {
                    plugin: name.to_owned(),
                    command: CommandName::Add,
                    fault,
                    stderr: String::new(),
                })
            })
            .collect()
    }

    /// Asks every plugin which versions it speaks and selects the newest that all of them and the
    /// list have. A plugin that answers VERSION badly is taken to speak them all: it will say so
    /// itself when it is called with one it does not know.
    ///
    /// # Errors
    /// `Reported` with code 1 naming the first plugin that leaves nothing to choose; `Missing` and
    /// `NotExecutable`.
    pub fn negotiate(&mut self) -> Result<CniVersion, PluginError> {
        let mut left = self.list.versions.clone();
        for plugin in &self.list.plugins {
            let Some(spoken) = self.versions_of(&plugin.plugin)? else { continue };
            let before = std::mem::take(&mut left);
            left = before.iter().copied().filter(|v| spoken.contains(v)).collect();
            if left.is_empty() {
                return Err(PluginError {
                    plugin: plugin.plugin.clone(),
                    command: CommandName::Version,
                    fault: Fault::Reported(Reported {
                        code: 1,
                        msg: format!(
                            "it speaks CNI {}, the conflist asks for {}",
                            CniVersion::list(&spoken),
                            CniVersion::list(&before)
                        ),
                        details: "add an older version to cniVersions, or use newer plugins".into(),
                    }),
                    stderr: String::new(),
                });
            }
        }
        self.version = left.last().copied().unwrap_or(self.version);
        Ok(self.version)
    }

    fn versions_of(&self, plugin: &str) -> Result<Option<Vec<CniVersion>>, PluginError> {
        let request = json!({ "cniVersion": self.list.newest().name() });
        let output = match self.call(plugin, CommandName::Version, &request, None) {
            Ok(output) => output,
            Err(e) if matches!(e.fault, Fault::Missing { .. } | Fault::NotExecutable(_)) => {
                return Err(e);
            }
            Err(_) => return Ok(None),
        };
        let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else { return Ok(None) };
        let Some(list) = answer.get("supportedVersions").and_then(Value::as_array) else {
            return Ok(None);
        };
        Ok(Some(list.iter().filter_map(|v| v.as_str()?.parse().ok()).collect()))
    }

    /// ADD through the whole chain, first to last. When a plugin fails, DEL is run through the
    /// chain, as the specification demands of a runtime.
    ///
    /// # Errors
    /// The failure and what went wrong in undoing it.
    pub fn add(&self, to: &Attachment) -> Result<AddResult, AddFailure> {
        let mut result: Option<AddResult> = None;
        for (index, plugin) in self.list.plugins.iter().enumerate() {
            let request = self.request(index, to, result.as_ref().map(AddResult::raw));
            let next = self
                .call(&plugin.plugin, CommandName::Add, &request, Some(to))
                .and_then(|output| self.add_result(&plugin.plugin, output));
            match next {
                Ok(next) => result = Some(next),
                Err(error) => {
                    return Err(AddFailure { error: Box::new(error), undo: self.del(to, None) });
                }
            }
        }
        // The parser lets no list without plugins through.
        result.ok_or_else(|| AddFailure {
            error: Box::new(PluginError {
                plugin: self.list.name.clone(),
                command: CommandName::Add,
                fault: Fault::Missing { looked: Vec::new() },
                stderr: String::new(),
            }),
            undo: Vec::new(),
        })
    }

    fn add_result(&self, plugin: &str, output: Output) -> Result<AddResult, PluginError> {
        let fail = |fault| PluginError {
            plugin: plugin.to_owned(),
            command: CommandName::Add,
            fault,
            stderr: output.stderr.clone(),
        };
        let value: Value = serde_json::from_slice(&output.stdout)
            .map_err(|e| fail(Fault::NotJson { cause: e.to_string(), stdout: output.excerpt() }))?;
        // An error object with exit status 0 would pass as an empty result.
        if let Some(error) = reported(&value).filter(|_| value.get("ips").is_none()) {
            return Err(fail(Fault::Reported(error)));
        }
        AddResult::parse(value, self.version).map_err(|e| fail(Fault::Wrong(Box::new(e))))
    }

    /// CHECK through the whole chain, with the final result of ADD.
    ///
    /// # Errors
    /// The first plugin that finds something wrong.
    pub fn check(&self, of: &Attachment, result: &AddResult) -> Result<CheckOutcome, PluginError> {
        if self.list.disable_check {
            return Ok(CheckOutcome::Skipped("the conflist has disableCheck"));
        }
        if !self.version.has_check() {
            return Ok(CheckOutcome::Skipped("CNI has CHECK since 0.4.0"));
        }
        for (index, plugin) in self.list.plugins.iter().enumerate() {
            let request = self.request(index, of, Some(result.raw()));
            self.call(&plugin.plugin, CommandName::Check, &request, Some(of))?;
        }
        Ok(CheckOutcome::Passed)
    }

    /// DEL through the whole chain, last to first, with the final result of ADD where there is one
    /// and the version has it.
    ///
    /// Goes on after an error, unlike the specification's runtime, which stops and is called again:
    /// this one is not called again, and what the other plugins made must go.
    pub fn del(&self, of: &Attachment, result: Option<&AddResult>) -> Vec<PluginError> {
        let prev = result.filter(|_| self.version.has_check()).map(AddResult::raw);
        let mut errors = Vec::new();
        for (index, plugin) in self.list.plugins.iter().enumerate().rev() {
            let request = self.request(index, of, prev);
            errors.extend(self.call(&plugin.plugin, CommandName::Del, &request, Some(of)).err());
        }
        errors
    }

    /// STATUS of every plugin; false when the version has none.
    ///
    /// # Errors
    /// The first plugin that could not serve an ADD now.
    pub fn status(&self) -> Result<bool, PluginError> {
        if !self.version.has_status_and_gc() {
            return Ok(false);
        }
        for (index, plugin) in self.list.plugins.iter().enumerate() {
            let request = self.list.request(index, self.version, &Request::default());
            self.call(&plugin.plugin, CommandName::Status, &request, None)?;
        }
        Ok(true)
    }

    /// GC: has every plugin remove what belongs to no attachment in `valid`. Does nothing when the
    /// version has none or the list forbids it.
    pub fn gc(&self, valid: &[Attachment]) -> Vec<PluginError> {
        if !self.version.has_status_and_gc() || self.list.disable_gc {
            return Vec::new();
        }
        let valid: Value = valid
            .iter()
            .map(|a| json!({"containerID": a.container_id, "ifname": a.ifname}))
            .collect();
        let mut errors = Vec::new();
        for (index, plugin) in self.list.plugins.iter().enumerate() {
            let request = Request { valid_attachments: Some(&valid), ..Request::default() };
            let request = self.list.request(index, self.version, &request);
            errors.extend(self.call(&plugin.plugin, CommandName::Gc, &request, None).err());
        }
        errors
    }

    fn request(&self, index: usize, of: &Attachment, prev_result: Option<&Value>) -> Value {
        let request = Request {
            capability_args: Some(&of.capability_args),
            prev_result,
            valid_attachments: None,
        };
        self.list.request(index, self.version, &request)
    }

    fn call(
        &self,
        plugin: &str,
        command: CommandName,
        request: &Value,
        attachment: Option<&Attachment>,
    ) -> Result<Output, PluginError> {
        let fail =
            |fault, stderr| PluginError { plugin: plugin.to_owned(), command, fault, stderr };
        let path = process::find(plugin, &self.dirs).map_err(|f| fail(f, String::new()))?;
        let dirs: Vec<_> = self.dirs.iter().map(|d| d.display().to_string()).collect();
        let mut env = vec![("CNI_COMMAND", command.to_string()), ("CNI_PATH", dirs.join(":"))];
        if let Some(a) = attachment {
            let args: Vec<_> = a.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
            env.push(("CNI_CONTAINERID", a.container_id.clone()));
            env.push(("CNI_NETNS", a.netns.display().to_string()));
            env.push(("CNI_IFNAME", a.ifname.clone()));
            env.push(("CNI_ARGS", args.join(";")));
        }
        let limits = Limits {
            deadline: self.deadline,
            token: self.token.clone(),
            grace: if command == CommandName::Del { DEL_GRACE } else { Duration::ZERO },
        };
        let output = process::run(&path, &env, request.to_string().as_bytes(), &limits)
            .map_err(|(fault, stderr)| fail(fault, stderr))?;
        if output.status.success() {
            return Ok(output);
        }
        // The specification says both standard output and standard error; libcni reads the former.
        let error = serde_json::from_slice::<Value>(&output.stdout)
            .ok()
            .and_then(|v| reported(&v))
            .or_else(|| reported(&serde_json::from_str::<Value>(&output.stderr).ok()?));
        let fault = match error {
            Some(error) => Fault::Reported(error),
            None => Fault::Silent { status: output.status_text(), stdout: output.excerpt() },
        };
        Err(fail(fault, output.stderr))
    }
}

/// Reads an error object; none when it is not one.
fn reported(value: &Value) -> Option<Reported> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(Reported {
        code: value.get("code")?.as_i64()?,
        msg: text("msg")?,
        details: text("details").unwrap_or_default(),
    })
}
