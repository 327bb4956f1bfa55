/// Why the store could not do something. No variant carries an id, a value, a key or SQL text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be used now: disk full, I/O error, closing, too busy, server away. The host's fault.
    /// Nothing was stored.
    #[error("the database is not available")]
    Unavailable,
    /// The server went away while it was committing: whether it did is not known. The host's fault.
    #[error("the database went away before it said whether it stored the change")]
    Uncertain,
    /// The expected version or absence did not hold. The caller's fault.
    #[error("the resource is not in the expected version")]
    Conflict,
    /// A row is not what was sealed for its place: altered, swapped, cut off, or its key is gone. Nothing of it is
    /// given out.
    #[error("a stored row fails its integrity check")]
    Corrupt,
    /// The query would examine more resources than the limit. The caller should narrow it.
    #[error("the query would examine too many resources")]
    TooCostly,
    /// So many search parameters were added that no other is taken. The caller's fault.
    #[error("there are as many added search parameters as the index takes")]
    TooManyParameters,
    /// Another added search parameter has the same name for the same type. The caller's fault.
    #[error("another added search parameter has the same name")]
    ParameterTaken,
    /// A position does not belong to this query. The caller's fault.
    #[error("the position does not belong to this query")]
    Position,
    /// What was handed in cannot be stored, for example a resource that is not an object. The caller's fault.
    #[error("the resource cannot be stored in this form")]
    Unstorable,
    /// The file was not made with this key, or is not a database. The operator's fault.
    #[error("the database does not open with this key")]
    WrongKey,
    /// The server's certificate is not from the given authorities or not for the host name, or the server speaks no
    /// TLS 1.3. The operator's fault, or an attack.
    #[error("the database server is not the one that is trusted")]
    Untrusted,
    /// The server does not let the user in: another password, certificate or database name. The operator's fault.
    #[error("the database server does not accept the user")]
    Refused,
    /// A certificate, key or host name in the options cannot be used. The operator's fault.
    #[error("the settings of the database connection cannot be used")]
    Settings,
    /// The file was written by a newer version of Ward. The operator's fault.
    #[error("the database has a newer schema than this program")]
    NewerSchema,
}

/// The driver's errors quote SQL and values, so nothing but their class is kept.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::WrongKey,
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt,
            Some(ErrorCode::ConstraintViolation) => Self::Conflict,
            Some(_) => Self::Unavailable,
            // A column of an unexpected type or value: the row is not one of ours.
            None => Self::Corrupt,
        }
    }
}

impl From<ward_keys::OpenError> for StoreError {
    fn from(_: ward_keys::OpenError) -> Self {
        Self::Corrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_errors_lose_their_text() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let error = connection.execute("SELECT 'Ada' FROM nowhere", []).unwrap_err();
        assert_eq!(StoreError::from(error), StoreError::Unavailable);
        assert!(!StoreError::from(rusqlite::Error::InvalidQuery).to_string().contains("Ada"));
    }
}
