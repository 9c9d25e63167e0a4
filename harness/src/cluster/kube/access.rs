//! The way to a cluster's API server, and what its refusals mean.
//!
//! Owns the client and the words for its errors. Which objects are made is `objects`' business.

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use kube::{
    Api, Client, Config, Error,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{path::Path, time::Duration};

/// Patience for one answer of the API server.
const ANSWER: Duration = Duration::from_secs(30);
/// What a refusal by a namespace's pod security standard says.
pub const POD_SECURITY: &str = "violates PodSecurity";
/// Patience for a connection to it.
const CONNECT: Duration = Duration::from_secs(5);

/// A cluster's API server.
#[derive(Clone)]
pub struct Access {
    /// The client.
    pub client: Client,
    /// For people: the context's name and the server's address.
    pub name: String,
    /// The namespace that the context names.
    pub namespace: String,
}

impl Access {
    /// From a kubeconfig: the file given, else `$KUBECONFIG`, else `~/.kube/config`, else the service
    /// account of the pod that this runs in.
    ///
    /// # Errors
    /// No kubeconfig, no such context, a broken file; the server is not asked yet.
    pub async fn from_kubeconfig(
        file: Option<&Path>,
        context: Option<&str>,
    ) -> anyhow::Result<Self> {
        let kubeconfig = match file {
            Some(path) if !path.exists() => bail!("there is no kubeconfig {}", path.display()),
            Some(path) => Kubeconfig::read_from(path)
                .map(Some)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?,
            None if Self::is_configured() => {
                Kubeconfig::read().map(Some).context("cannot read the kubeconfig")?
            }
            None => None,
        };
        let (mut config, name) = match kubeconfig {
            Some(kubeconfig) => {
                let name = chosen(&kubeconfig, context)?;
                let options =
                    KubeConfigOptions { context: Some(name.clone()), ..Default::default() };
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                (config.with_context(|| format!("the kubeconfig's context {name}"))?, name)
            }
            None => match Config::incluster() {
                Ok(config) if context.is_none() => (config, "this pod's own cluster".to_owned()),
                _ => bail!(
                    "no kubeconfig: set KUBECONFIG or give --kubeconfig FILE, or run inside a cluster"
                ),
            },
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = None;
        let name = format!("{name} ({})", config.cluster_url);
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("the kubeconfig")?;
        Ok(Self { client, name, namespace })
    }

    /// Is there a kubeconfig where one is looked for when none is given?
    pub fn is_configured() -> bool {
        match std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
            Some(paths) => std::env::split_paths(&paths).any(|path| path.exists()),
            None => std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists()),
        }
    }

    /// Asks the server for its version.
    ///
    /// # Errors
    /// Why it does not answer, in words.
    pub async fn version(&self) -> anyhow::Result<String> {
        let version = answer(self.client.apiserver_version()).await;
        let version = version.map_err(|e| anyhow!("cluster {}: {}", self.name, explain(&e)))?;
        Ok(version.git_version)
    }

    /// May this user do it? Asked of the server (SelfSubjectAccessReview), which every user may.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn may(&self, right: &Right, namespace: Option<&str>) -> anyhow::Result<bool> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "metadata": {},
            "spec": {"resourceAttributes": {
                "namespace": namespace.unwrap_or_default(), "verb": right.verb, "group": right.group,
                "resource": right.resource, "subresource": right.subresource,
            }},
        });
        let review: SelfSubjectAccessReview = serde_json::from_value(review)?;
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let said = answer(api.create(&PostParams::default(), &review)).await;
        let said = said.map_err(|e| anyhow!("cluster {}: {}", self.name, explain(&e)))?;
        Ok(said.status.is_some_and(|s| s.allowed))
    }
}

/// The context that is asked for, else the current one.
fn chosen(kubeconfig: &Kubeconfig, context: Option<&str>) -> anyhow::Result<String> {
    let all: Vec<&str> = kubeconfig.contexts.iter().map(|c| c.name.as_str()).collect();
    let has = match all.as_slice() {
        [] => "it has none".to_owned(),
        all => format!("it has {}", all.join(", ")),
    };
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    match context.or(current) {
        Some(name) if all.contains(&name) => Ok(name.to_owned()),
        Some(name) => bail!("the kubeconfig has no context {name}; {has}"),
        None => bail!("the kubeconfig names no current context: give --context ({has})"),
    }
}

/// Waits for one answer of the API server, and not for ever: a server whose machine is gone does not
/// even refuse.
///
/// # Errors
/// The server's, or that it was silent, which counts as not reached ([`is_unreachable`]).
pub async fn answer<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Service(format!("no answer within {} s", ANSWER.as_secs()).into())),
    }
}

/// A right in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The API group, empty for the core group.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The subresource, or empty.
    pub subresource: &'static str,
    /// The verb.
    pub verb: &'static str,
    /// True for rights that a Role cannot give.
    pub cluster_wide: bool,
    /// What needs it.
    pub needed_for: &'static str,
}

impl Right {
    /// The same right, whatever it is needed for.
    pub fn same(&self, other: &Self) -> bool {
        let needed_for = self.needed_for;
        *self == Self { needed_for, ..*other }
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

/// What an error of the API means to a person, with the next step where there is one.
pub fn explain(error: &Error) -> String {
    match error {
        Error::Api(status) => match status.code {
            401 => "the API server does not know this user (401 Unauthorized): the token or certificate has expired or is wrong; renew the kubeconfig's credentials".to_owned(),
            403 => format!("not allowed: {}{}", status.message, allowed_how(&status.message)),
            404 if status.message.starts_with("namespaces ") => format!(
                "{}; `kubectl create namespace` makes it, and without --namespace a run makes its own",
                status.message
            ),
            code if status.message.is_empty() => format!("{} (status {code})", status.reason),
            _ => status.message.clone(),
        },
        Error::Auth(e) => format!("cannot log in: {e}"),
        other if is_unreachable(other) => {
            format!("the API server cannot be reached: {}", root(other))
        }
        other => chain(other),
    }
}

/// The next step after a refusal: admission refuses with the same status as RBAC does.
fn allowed_how(message: &str) -> &'static str {
    if message.contains(POD_SECURITY) {
        "; it may be in a namespace with the label pod-security.kubernetes.io/enforce=privileged, such as one of the run's own (without --namespace)"
    } else if message.contains("exceeded quota") || message.contains("failed quota") {
        "; another --pod-cpus may fit the quota"
    } else if message.contains("User \"") {
        " (`cnibench rbac` prints the rights that a run needs)"
    } else {
        ""
    }
}

/// True when the server could not be reached at all: it may come back.
pub fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => true,
        // A load balancer before a server that is gone; a server that is starting.
        Error::Api(status) => matches!(status.code, 502..=504),
        _ => false,
    }
}

/// True for "there is no such object".
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 404)
}

/// True for "this user may not".
pub fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 403)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(e) = last.source() {
        last = e;
    }
    match last.to_string().as_str() {
        // What a time limit says that lies deep below.
        "deadline has elapsed" => format!("no answer within {} s", CONNECT.as_secs()),
        said => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(text: &str) -> Error {
        let status: kube::core::Status = serde_json::from_str(text).unwrap();
        Error::Api(Box::new(status))
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let read = |text: &str| Kubeconfig::from_yaml(text).unwrap();
        let two = read(
            "{current-context: a, contexts: [{name: a, context: {cluster: x}}, {name: b, context: {cluster: x}}]}",
        );
        assert_eq!(chosen(&two, None).unwrap(), "a");
        assert_eq!(chosen(&two, Some("b")).unwrap(), "b");
        let text = chosen(&two, Some("c")).unwrap_err().to_string();
        assert!(text.contains("no context c") && text.contains("a, b"), "{text}");
        let text = chosen(&read("{}"), None).unwrap_err().to_string();
        assert!(text.contains("--context") && text.contains("none"), "{text}");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let expired = api(
            r#"{"status":"Failure","reason":"Unauthorized","message":"Unauthorized","code":401}"#,
        );
        assert!(explain(&expired).contains("expired"), "{}", explain(&expired));
        let forbidden = api(
            r#"{"status":"Failure","reason":"Forbidden","code":403,"message":"pods is forbidden: User \"jane\" cannot create resource \"pods\" in API group \"\" in the namespace \"x\""}"#,
        );
        let text = explain(&forbidden);
        assert!(text.contains("cannot create resource \"pods\"") && text.contains("cnibench rbac"));
        assert!(is_forbidden(&forbidden) && !is_unreachable(&forbidden));
        let refused = |message: &str| {
            explain(&api(&format!(
                r#"{{"status":"Failure","reason":"Forbidden","code":403,"message":"{message}"}}"#
            )))
        };
        let text = refused("pods is forbidden: violates PodSecurity restricted: host namespaces");
        assert!(text.contains("enforce=privileged") && !text.contains("rbac"), "{text}");
        let text = refused("pods is forbidden: exceeded quota: small, requested: pods=1");
        assert!(text.contains("--pod-cpus") && !text.contains("rbac"), "{text}");
        let gone = api(r#"{"status":"Failure","code":503,"message":"apiserver is shutting down"}"#);
        assert!(is_unreachable(&gone));
    }
}
