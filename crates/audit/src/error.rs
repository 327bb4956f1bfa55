use std::io;

/// Why the log was not opened, written or read. Names files of the log and never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Another process, or another part of this one, writes this log.
    #[error("the audit log is open elsewhere")]
    InUse,
    /// The operating system refused; for a write, the log takes no more entries until it is opened again.
    #[error("the audit log cannot be read or written at `{file}`")]
    Io {
        /// Below the log's directory.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// An earlier write failed: what is on the disk is known again only after the log is opened anew.
    #[error("the audit log takes no more entries since a write failed; open it again")]
    Poisoned,
    /// The log in this directory was signed by another key, or under another name.
    #[error("the audit log in this directory belongs to another key or origin")]
    OtherKey,
    /// The origin is empty, or holds a space, a plus or a control character.
    #[error("the origin cannot name an audit log")]
    Origin,
    /// A file is missing, damaged or altered in a way that a crash does not explain. Going on could contradict a
    /// checkpoint that was signed, so the log is not opened.
    #[error("the audit log is damaged at `{file}`: {what}")]
    Damaged {
        /// Below the log's directory.
        file: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An entry of the caller's does not fit the 65,535 bytes of the format: its actor or roles are too long. Nothing
    /// of the batch was written.
    #[error("an audit entry is too large")]
    TooLarge,
    /// The caller asked for a size that the log has not reached.
    #[error("the audit log is not that long")]
    Beyond,
    /// The sealed part of an entry does not open: it was sealed under other keys, or altered.
    #[error("audit entry {index} cannot be opened with these keys")]
    Sealed {
        /// The entry's number.
        index: u64,
    },
}

/// Why a log is not proven. Names files of the log and never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file that a log of this size has is not there.
    #[error("`{file}` is missing")]
    Missing {
        /// Below the log's directory.
        file: String,
    },
    /// Something lies in this directory that does not belong to a log of this size.
    #[error("`{directory}` holds a file that does not belong there")]
    Surplus {
        /// Below the log's directory; the name of the file itself is not ours and could say anything.
        directory: String,
    },
    /// A file is not what the signed tree says.
    #[error("`{file}` was altered or damaged: {what}")]
    Altered {
        /// Below the log's directory.
        file: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The verifier key that was given is not one (`name+hash+key`).
    #[error("the verifier key is not one")]
    Key,
    /// The verifier key that was given is not the log's.
    #[error("the log was signed by another key")]
    OtherKey,
    /// The operating system refused.
    #[error("`{file}` cannot be read")]
    Io {
        /// Below the log's directory.
        file: String,
        /// What it said.
        source: io::Error,
    },
}
