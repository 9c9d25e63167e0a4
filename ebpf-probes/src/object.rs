//! Opens an object file with eBPF programs: its maps are made, its programs are ready to be loaded.
//!
//! Owns where the bytes come from and how a refusal is told: the verifier's last words are kept. Which
//! programs are loaded and where they are attached is the caller's.

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{ProgramError, SchedClassifier},
};
use std::{borrow::Cow, fs, path::Path};

/// Lines of the verifier's log that an error shows: it names the fault at the end.
const LOG_LINES: usize = 12;

/// An object that `build.rs` compiled from `bpf/<name>.bpf.c`.
macro_rules! built_in {
    ($name:literal) => {
        $crate::object::Source::built_in(
            concat!("the built-in object ", $name),
            aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o")),
        )
    };
}

pub(crate) use built_in;

/// Why an object or one of its programs cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The file cannot be read.
    #[error("{object}: {error}")]
    Unreadable {
        /// Which object.
        object: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is no eBPF object, or its maps cannot be made.
    #[error("{object}: {reason}")]
    Broken {
        /// Which object.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel does not load a program of it.
    #[error("{object}: program {program}: the kernel does not load it: {reason}{log}", log = Tail(log))]
    Refused {
        /// Which object.
        object: String,
        /// Which program.
        program: String,
        /// The system call's error.
        reason: String,
        /// The verifier's log, as long as it was; empty where the verifier was not reached.
        log: String,
    },
}

/// The end of a log, as an error shows it.
struct Tail<'a>(&'a str);

impl std::fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The last lines count and say nothing of the fault.
        let counts = |l: &&str| {
            ["processed ", "verification time", "stack depth"].iter().any(|s| l.starts_with(s))
        };
        let lines: Vec<&str> =
            self.0.lines().map(str::trim_end).filter(|l| !l.is_empty() && !counts(l)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let shown = &lines[lines.len().saturating_sub(LOG_LINES)..];
        write!(f, "; the verifier's last words:\n{}", shown.join("\n"))
    }
}

/// Where an object comes from.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    bytes: Cow<'static, [u8]>,
    /// Constants of the object that are given another value before it is loaded.
    globals: Vec<(&'static str, u32)>,
}

impl Source {
    /// One that is part of this program, compiled by `build.rs`.
    pub fn built_in(name: &str, bytes: &'static [u8]) -> Self {
        Self { name: name.to_owned(), bytes: Cow::Borrowed(bytes), globals: Vec::new() }
    }

    /// A file.
    ///
    /// # Errors
    /// [`ObjectError::Unreadable`].
    pub fn file(path: &Path) -> Result<Self, ObjectError> {
        let name = path.display().to_string();
        match fs::read(path) {
            Ok(bytes) => Ok(Self { name, bytes: Cow::Owned(bytes), globals: Vec::new() }),
            Err(error) => Err(ObjectError::Unreadable { object: name, error }),
        }
    }

    /// The same with another value for a `const volatile __u32` of the object.
    pub fn with_global(mut self, name: &'static str, value: u32) -> Self {
        self.globals.push((name, value));
        self
    }

    /// For people: a path, or which built-in object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes its maps in the kernel and relocates its programs; loads none of them. Blocks.
    ///
    /// # Errors
    /// [`ObjectError::Broken`].
    pub fn open(&self) -> Result<Ebpf, ObjectError> {
        let mut loader = EbpfLoader::new();
        for (name, value) in &self.globals {
            // One that it has not is an error of `load`.
            loader.override_global(name, value, true);
        }
        loader.load(&self.bytes).map_err(|e| self.broken(reason(&e)))
    }

    /// The error for an object that lacks something or has it in another shape.
    pub fn broken(&self, reason: impl Into<String>) -> ObjectError {
        ObjectError::Broken { object: self.name.clone(), reason: reason.into() }
    }

    /// What aya says of a program, with the verifier's log apart.
    pub fn refused(&self, program: &str, error: ProgramError) -> ObjectError {
        let (reason, log) = match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                (io_error.to_string(), verifier_log.to_string())
            }
            e => (chain(&e), String::new()),
        };
        let (object, program) = (self.name.clone(), program.to_owned());
        ObjectError::Refused { object, program, reason, log }
    }

    /// Loads a tc program of an open object. Blocks while the verifier works.
    ///
    /// # Errors
    /// It is not there, is no tc program, or the kernel refuses it.
    pub fn load_classifier<'a>(
        &self,
        ebpf: &'a mut Ebpf,
        program: &str,
    ) -> Result<&'a mut SchedClassifier, ObjectError> {
        let found = ebpf
            .program_mut(program)
            .ok_or_else(|| self.broken(format!("it has no program {program}")))?;
        let classifier: &mut SchedClassifier = found.try_into().map_err(|_| {
            self.broken(format!("program {program} is no tc program: it needs SEC(\"classifier\")"))
        })?;
        classifier.load().map_err(|e| self.refused(program, e))?;
        Ok(classifier)
    }
}

fn reason(error: &EbpfError) -> String {
    match error {
        EbpfError::ParseError(e) => format!("not an eBPF object that can be read: {}", chain(e)),
        e => chain(e),
    }
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_log_is_shown() {
        let log: String = (0..40).map(|i| format!("{i}: (b7) r0 = {i}\n")).collect();
        let error = ObjectError::Refused {
            object: "a.o".to_owned(),
            program: "from_pod".to_owned(),
            reason: "Permission denied".to_owned(),
            log: format!("{log}R3 invalid mem access\nprocessed 40 insns (limit 1000000)\n"),
        };
        let text = error.to_string();
        assert!(text.ends_with("39: (b7) r0 = 39\nR3 invalid mem access"), "{text}");
        assert!(!text.contains("\n20: ") && text.contains("\n29: "), "{text}");
        let short = ObjectError::Refused {
            object: "a.o".to_owned(),
            program: "p".to_owned(),
            reason: "Operation not permitted".to_owned(),
            log: String::new(),
        };
        assert!(short.to_string().ends_with("load it: Operation not permitted"));
    }

    #[test]
    fn rubbish_is_no_object() {
        let rubbish = Source::built_in("rubbish", b"this is no ELF");
        let text = rubbish.open().err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.starts_with("rubbish: not an eBPF object"), "{text}");
        let missing = Source::file(Path::new("/does/not/exist.o"));
        assert!(missing.is_err_and(|e| e.to_string().starts_with("/does/not/exist.o: No such")));
    }
}
