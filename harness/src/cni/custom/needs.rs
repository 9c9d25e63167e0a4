//! What the commands of a file use of a machine: themselves, and what the file says of the rest.

use super::file::{File, Steps, Words};
use crate::cni::Needs;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Of a file at `path`; names in it are meant from its folder.
///
/// # Errors
/// A variable that is not there.
pub fn of(path: &Path, file: &File) -> Result<Needs, String> {
    let filled = |texts: &[String]| -> Result<Vec<PathBuf>, String> {
        let fill = |text: &String| {
            let text =
                fill(text, &file.env).map_err(|e| format!("{}: [guest]: {e}", path.display()))?;
            // A bare name of a program is looked up on PATH.
            Ok(if text.contains('/') { file.folder.join(text) } else { text.into() })
        };
        texts.iter().map(fill).collect()
    };
    let mut programs: Vec<PathBuf> =
        commands(file).filter_map(|words| program(file, words)).collect();
    programs.extend(filled(&file.guest.programs)?);
    let files = filled(&file.guest.files)?.into_iter().map(|name| file.folder.join(name));
    Ok(Needs {
        programs,
        files: files.chain([path.to_owned()]).collect(),
        modules: file.guest.modules.clone(),
    })
}

/// Fills in `${NAME}`.
fn fill(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, after) =
            behind.split_once('}').ok_or_else(|| format!("{text:?}: \"${{\" without \"}}\""))?;
        let value = env.get(name);
        let value = value.ok_or_else(|| format!("{text:?}: [env] has no variable {name}"))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    Ok(filled + rest)
}

fn commands(file: &File) -> impl Iterator<Item = &Words> {
    let steps = [&file.facts, &file.setup, &file.teardown].into_iter().flatten();
    let daemon = file.daemon.iter().flat_map(|d| [&d.command, &d.ready]);
    steps.flat_map(|steps: &Steps| &steps.commands).chain(daemon)
}

/// As `file` left it: a path is absolute.
fn program(file: &File, words: &Words) -> Option<PathBuf> {
    let name = words.first()?;
    Some(if name.contains('/') { file.folder.join(name) } else { name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn needs(rest: &str) -> Result<(tempfile::TempDir, Needs), String> {
        let dir = tempfile::tempdir().unwrap();
        for name in ["c.conflist", "agent"] {
            fs::write(dir.path().join(name), "{}").unwrap();
        }
        let path = dir.path().join("x.toml");
        let text = format!("description = \"d\"\nconflist = \"c.conflist\"\n{rest}");
        let file = super::super::file::parse(&path, &text, 1500).map_err(|e| e.to_string())?;
        of(&path, &file).map(|needs| (dir, needs))
    }

    #[test]
    fn commands_and_what_the_file_says_are_needed() {
        let (dir, needs) = needs(
            "[env]\nAGENT = \"agentd\"\n[setup]\ncommands = [[\"sysctl\", \"-w\"]]\n\
             [daemon]\ncommand = [\"./agent\"]\nready = [\"test\"]\n\
             [guest]\nprograms = [\"${AGENT}\", \"ip\"]\nfiles = [\"agent\", \"/usr/x\"]\nmodules = [\"m\"]\n",
        )
        .unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(
            needs.programs,
            ["sysctl".into(), at("./agent"), "test".into(), "agentd".into(), "ip".into()]
        );
        assert_eq!(needs.files, [at("agent"), "/usr/x".into(), at("x.toml")]);
        assert_eq!(needs.modules, ["m"]);
    }

    #[test]
    fn unknown_words_are_refused() {
        let said = needs("[guest]\nfiles = [\"${NO}\"]\n").unwrap_err();
        assert!(said.contains("[guest]: \"${NO}\": [env] has no variable NO"), "{said}");
        assert!(needs("[guest]\nfile = []\n").unwrap_err().contains("unknown field"));
    }
}
