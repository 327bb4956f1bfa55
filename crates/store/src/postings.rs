//! Walking the blind index: the resources of one token, of any of several, in the order of `rid`.

use rusqlite::{Connection, params};

use crate::{StoreError, sql};

/// The first fetch is small, since most tokens have few resources; later ones grow.
const FIRST_FETCH: usize = 32;
const FETCH_MAX: usize = 512;

/// The resources of one token, read in chunks.
pub(crate) struct Cursor {
    token: i64,
    chunk: Vec<i64>,
    at: usize,
    fetch: usize,
    /// Whether nothing comes after the chunk.
    ended: bool,
}

impl Cursor {
    pub(crate) const fn new(token: i64) -> Self {
        Self { token, chunk: Vec::new(), at: 0, fetch: FIRST_FETCH, ended: false }
    }

    /// The first resource from `from` on. `from` must not go backwards.
    pub(crate) fn seek(&mut self, connection: &Connection, from: i64) -> Result<Option<i64>, StoreError> {
        // Most steps are to the next entry or a near one.
        while let Some(rid) = self.chunk.get(self.at) {
            if *rid >= from {
                return Ok(Some(*rid));
            }
            if self.chunk.last().is_some_and(|last| *last < from) {
                break;
            }
            self.at += 1;
        }
        if self.ended {
            self.at = self.chunk.len();
            return Ok(None);
        }
        self.chunk.clear();
        self.at = 0;
        let mut statement = connection.prepare_cached(sql::POSTINGS)?;
        let mut rows = statement.query(params![self.token, sql::SHARD, from, self.fetch as i64])?;
        while let Some(row) = rows.next()? {
            self.chunk.push(row.get(0)?);
        }
        self.ended = self.chunk.len() < self.fetch;
        self.fetch = (self.fetch * 4).min(FETCH_MAX);
        Ok(self.chunk.first().copied())
    }

    fn weight(&self, newest: i64) -> f64 {
        let known = self.chunk.len() as f64;
        match (self.chunk.first(), self.chunk.last()) {
            (Some(first), Some(last)) if !self.ended => {
                let spanned = last.saturating_sub(*first).max(1) as f64;
                let remaining = newest.saturating_sub(*first).max(1) as f64;
                known * (remaining / spanned).max(1.0)
            }
            _ => known,
        }
    }
}

/// The resources of any of several tokens.
pub(crate) struct Group {
    cursors: Vec<Cursor>,
}

impl Group {
    pub(crate) fn new(tokens: &[i64]) -> Self {
        Self { cursors: tokens.iter().map(|token| Cursor::new(*token)).collect() }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.cursors.len()
    }

    /// The first resource from `from` on that has one of the tokens.
    pub(crate) fn seek(&mut self, connection: &Connection, from: i64) -> Result<Option<i64>, StoreError> {
        let mut first: Option<i64> = None;
        for cursor in &mut self.cursors {
            if let Some(rid) = cursor.seek(connection, from)? {
                first = Some(first.map_or(rid, |first| first.min(rid)));
            }
        }
        Ok(first)
    }

    /// About how many resources come from `from` on, exact when few. `newest` is the newest resource there is.
    ///
    /// Resources are numbered by time, so how densely the first entries lie tells how many there are in all.
    pub(crate) fn weight(
        &mut self,
        connection: &Connection,
        from: i64,
        newest: i64,
    ) -> Result<f64, StoreError> {
        let mut weight = 0.0;
        for cursor in &mut self.cursors {
            cursor.seek(connection, from)?;
            weight += cursor.weight(newest);
        }
        Ok(weight)
    }
}
