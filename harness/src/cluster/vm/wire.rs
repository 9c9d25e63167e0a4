//! What crosses the console between controller and guest: frames, each of one channel.
//!
//! Channel 0 carries questions and answers as JSON; every other one is the standard input, output and
//! error of one process in the guest. Owns the bytes on the wire; both ends use it.

use crate::cluster::{ClusterError, CniOffer, Ends, Place, StateError, Topology};
use anyhow::anyhow;
use cnibench_model::{CniInfo, CniSpec, Placement, Proof, Surroundings};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Raised with every change of what is said here.
pub const VERSION: u32 = 1;
/// The channel of questions and answers.
pub const CONTROL: u32 = 0;
/// Larger frames are taken for damage.
const LARGEST: u32 = 64 << 20;
/// Bytes of a process's output in one frame.
pub const CHUNK: usize = 32 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON of [`Ask`] or [`Answer`]; channel 0 only.
    Control,
    /// To the standard input of the process; empty: its end.
    Input,
    /// Of its standard output.
    Output,
    /// Of its standard error.
    Errors,
    /// It ended; the text says how.
    Ended,
    /// It is to be killed.
    Kill,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Control, Self::Input, Self::Output, Self::Errors, Self::Ended, Self::Kill];
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whose.
    pub channel: u32,
    /// What.
    pub kind: Kind,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of channel 0.
    ///
    /// # Errors
    /// What cannot be JSON.
    pub fn control(what: &impl Serialize) -> serde_json::Result<Self> {
        Ok(Self { channel: CONTROL, kind: Kind::Control, payload: serde_json::to_vec(what)? })
    }

    /// Its bytes: length of the payload, channel (little endian, 32 bits each), kind, payload.
    pub fn bytes(&self) -> Vec<u8> {
        let kind = Kind::ALL.iter().position(|k| *k == self.kind).unwrap_or_default();
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.payload.len() + HEADER);
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.channel.to_le_bytes());
        bytes.push(u8::try_from(kind).unwrap_or(u8::MAX));
        bytes.extend(&self.payload);
        bytes
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(&self.bytes())?;
        to.flush()
    }

    /// Reads the next one; None at the end.
    ///
    /// # Errors
    /// Those of reading, an end in the middle, or bytes that are no frame.
    pub fn read(mut from: impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        if from.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut header[1..])?;
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (length, channel) = (word(0), word(4));
        let kind = Kind::ALL.get(usize::from(header[8])).copied();
        let (Some(kind), true) = (kind, length <= LARGEST) else {
            let text = format!("not a frame: {header:02x?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        let mut payload = vec![0; length as usize];
        from.read_exact(&mut payload)?;
        Ok(Some(Self { channel, kind, payload }))
    }
}

const HEADER: usize = 9;

/// What the controller asks; answered in order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// Which cnis it can carry.
    Cnis,
    /// Can it carry this one?
    Check { cni: CniSpec, topology: Topology },
    /// Bring the cluster up: one in a guest's life.
    Up { index: u32, cni: CniSpec, topology: Topology },
    /// Bring it to another state.
    Surround { wanted: Surroundings },
    /// Prove the datapath.
    Prove,
    /// Is the datapath still what came up?
    Inspect,
    /// Start an agent in a place; its pipes are this channel.
    Enter { place: Place, channel: u32 },
    /// Take the cluster down.
    Down,
    /// Switch the machine off.
    Off,
}

/// What the guest answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// It has booted; said unasked, first.
    Hello { version: u32, kernel: String, modules: Vec<ModuleState> },
    /// To [`Ask::Cnis`].
    Offers { offers: Vec<Offer> },
    /// To [`Ask::Up`].
    Up { info: Box<CniInfo>, notes: Vec<String>, ends: Vec<(Placement, Result<Ends, String>)> },
    /// To [`Ask::Prove`] and [`Ask::Surround`].
    Proofs { proofs: Vec<Proof> },
    /// To what has no other answer.
    Done,
    /// It could not be done.
    Refused { why: Refusal },
    /// What could not be undone.
    Troubles { troubles: Vec<String> },
}

/// A module that did not load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleState {
    /// Its file.
    pub name: String,
    /// The kernel's reason.
    pub error: String,
}

/// A [`CniOffer`] on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    name: String,
    description: String,
    params: Vec<(String, String)>,
    automatic: bool,
    missing: Option<String>,
}

impl From<CniOffer> for Offer {
    fn from(offer: CniOffer) -> Self {
        let CniOffer { name, description, params, automatic, missing } = offer;
        Self { name, description, params, automatic, missing }
    }
}

impl From<Offer> for CniOffer {
    fn from(offer: Offer) -> Self {
        let Offer { name, description, params, automatic, missing } = offer;
        Self { name, description, params, automatic, missing }
    }
}

/// Why not, for all kinds of errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Refusal {
    /// [`ClusterError::Unsupported`].
    Unsupported { cni: CniSpec, reason: String },
    /// [`ClusterError::Usage`].
    Usage { text: String },
    /// [`StateError::NotOffered`].
    NotOffered { text: String },
    /// Everything else.
    Failed { text: String },
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Unsupported { cni, reason } => Self::Unsupported { cni, reason },
            ClusterError::Usage(text) => Self::Usage { text },
            ClusterError::Failed(e) => e.into(),
        }
    }
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        match error {
            StateError::NotOffered(text) => Self::NotOffered { text },
            StateError::Failed(e) => e.into(),
        }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed { text: format!("{error:#}") }
    }
}

impl From<Refusal> for ClusterError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unsupported { cni, reason } => Self::Unsupported { cni, reason },
            Refusal::Usage { text } => Self::Usage(text),
            Refusal::NotOffered { text } | Refusal::Failed { text } => Self::Failed(anyhow!(text)),
        }
    }
}

impl From<Refusal> for StateError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOffered { text } => Self::NotOffered(text),
            other => Self::Failed(anyhow!(ClusterError::from(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let frames = Kind::ALL.map(|kind| Frame {
            channel: 0x0102_0304,
            kind,
            payload: vec![7; kind as usize * 40_000],
        });
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut from = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut from).unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn damage_is_an_error() {
        let frame = Frame { channel: 1, kind: Kind::Output, payload: b"abc".to_vec() };
        let bytes = frame.bytes();
        for cut in 1..bytes.len() {
            assert!(Frame::read(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut wrong = bytes.clone();
        wrong[8] = 6;
        assert!(Frame::read(wrong.as_slice()).is_err());
        let mut long = bytes;
        long[3] = 0xff;
        assert!(Frame::read(long.as_slice()).is_err());
    }

    #[test]
    fn reasons_keep_their_kind() {
        let cni: CniSpec = "host".parse().unwrap();
        let there = Refusal::from(ClusterError::Unsupported { cni, reason: "r".into() });
        let json = serde_json::to_string(&there).unwrap();
        let back: Refusal = serde_json::from_str(&json).unwrap();
        assert!(matches!(ClusterError::from(back), ClusterError::Unsupported { reason, .. } if reason == "r"));
        let state = Refusal::from(StateError::NotOffered("no".into()));
        assert!(matches!(StateError::from(state), StateError::NotOffered(text) if text == "no"));
    }
}
