//! One connection to either database, as the rest of the store sees it: static statements, parameters, rows.

use std::ops::ControlFlow;

use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::{
    StoreError,
    server::{ROWS_BYTES_MAX, Server},
};

/// A connection of one thread.
pub(crate) enum Connection {
    /// To the SQLCipher file.
    Embedded(rusqlite::Connection),
    /// To a PostgreSQL server.
    Server(Box<Server>),
}

/// A value handed to a statement.
#[derive(Clone, Copy)]
pub(crate) enum Parameter<'a> {
    Integer(i64),
    OptionalInteger(Option<i64>),
    Bytes(&'a [u8]),
    Text(&'a str),
    /// Only for statements of the server.
    Integers(&'a [i64]),
}

/// A row that a statement gave. Columns are counted from 0; what is not of the type asked for is
/// [`StoreError::Corrupt`].
pub(crate) enum Row<'a> {
    Embedded(&'a rusqlite::Row<'a>),
    Server(&'a tokio_postgres::Row),
}

/// What a closure over rows says of going on.
pub(crate) type Flow = Result<ControlFlow<()>, StoreError>;

impl Connection {
    /// Which database it leads to, if it leads anywhere yet.
    pub(crate) fn origin(&self) -> Option<i64> {
        match self {
            Self::Embedded(_) => Some(0),
            Self::Server(server) => server.origin(),
        }
    }

    /// Runs a statement that gives no rows; says how many it changed.
    pub(crate) fn execute(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, StoreError> {
        match self {
            Self::Embedded(connection) => {
                let mut statement = connection.prepare_cached(statement)?;
                Ok(statement.execute(rusqlite::params_from_iter(parameters))? as u64)
            }
            Self::Server(server) => server.execute(statement, parameters),
        }
    }

    /// Hands the rows to `each`, which may use the connection, until it breaks off. `false` if rows were left over,
    /// because it did or because they were too large to be held together.
    pub(crate) fn each(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        each: impl FnMut(&Row<'_>) -> Flow,
    ) -> Result<bool, StoreError> {
        self.each_within(ROWS_BYTES_MAX, statement, parameters, each)
    }

    fn each_within(
        &self,
        bytes_max: usize,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        mut each: impl FnMut(&Row<'_>) -> Flow,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(connection) => {
                let mut statement = connection.prepare_cached(statement)?;
                let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
                while let Some(row) = rows.next()? {
                    if each(&Row::Embedded(row))?.is_break() {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Server(server) => {
                let (rows, all) = server.query(statement, parameters, bytes_max)?;
                for row in &rows {
                    if each(&Row::Server(row))?.is_break() {
                        return Ok(false);
                    }
                }
                Ok(all)
            }
        }
    }

    /// The first row, read by `read`; `None` if there is none.
    pub(crate) fn one<T>(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self {
            Self::Embedded(connection) => {
                let mut statement = connection.prepare_cached(statement)?;
                let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
                rows.next()?.map(|row| read(&Row::Embedded(row))).transpose()
            }
            Self::Server(server) => {
                let (rows, _) = server.query(statement, parameters, ROWS_BYTES_MAX)?;
                rows.first().map(|row| read(&Row::Server(row))).transpose()
            }
        }
    }

    /// All rows, each read by `read`. For rows that are small, however many there are.
    pub(crate) fn all<T>(
        &self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        self.each_within(usize::MAX, statement, parameters, |row| {
            found.push(read(row)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}

impl Row<'_> {
    pub(crate) fn integer(&self, column: usize) -> Result<i64, StoreError> {
        match self {
            Self::Embedded(row) => Ok(row.get(column)?),
            Self::Server(row) => row.try_get(column).map_err(|_| StoreError::Corrupt),
        }
    }

    pub(crate) fn optional_integer(&self, column: usize) -> Result<Option<i64>, StoreError> {
        match self {
            Self::Embedded(row) => Ok(row.get(column)?),
            Self::Server(row) => row.try_get(column).map_err(|_| StoreError::Corrupt),
        }
    }

    /// A yes or no, stored as 1 or 0.
    pub(crate) fn flag(&self, column: usize) -> Result<bool, StoreError> {
        match self.integer(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StoreError::Corrupt),
        }
    }

    pub(crate) fn bytes(&self, column: usize) -> Result<&[u8], StoreError> {
        match self {
            Self::Embedded(row) => row.get_ref(column)?.as_blob().map_err(|_| StoreError::Corrupt),
            Self::Server(row) => row.try_get(column).map_err(|_| StoreError::Corrupt),
        }
    }

    /// Bytes of a length that is known.
    pub(crate) fn array<const N: usize>(&self, column: usize) -> Result<[u8; N], StoreError> {
        self.bytes(column)?.try_into().map_err(|_| StoreError::Corrupt)
    }
}

/// A driver may print its parameters.
impl std::fmt::Debug for Parameter<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Parameter(..)")
    }
}

impl From<i64> for Parameter<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<Option<i64>> for Parameter<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::OptionalInteger(number)
    }
}

impl From<bool> for Parameter<'_> {
    fn from(flag: bool) -> Self {
        Self::Integer(i64::from(flag))
    }
}

impl<'a> From<&'a [u8]> for Parameter<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Parameter<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a str> for Parameter<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [i64]> for Parameter<'a> {
    fn from(numbers: &'a [i64]) -> Self {
        Self::Integers(numbers)
    }
}

impl rusqlite::ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Integer(number) | Self::OptionalInteger(Some(number)) => ValueRef::Integer(number),
            Self::OptionalInteger(None) => ValueRef::Null,
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Integers(_) => return Err(rusqlite::Error::InvalidQuery),
        }))
    }
}
