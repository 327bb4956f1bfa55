//! Walking the blind index: the resources of one token, of any of several, in the order of `rid`.

use std::{collections::VecDeque, ops::ControlFlow};

use crate::{
    StoreError,
    connection::{Connection, Parameter, Row},
    read::Snapshot,
    sql,
};

/// The first fetch is small, since most tokens have few resources; later ones grow.
const FIRST_FETCH: usize = 32;
const FETCH_MAX: usize = 512;

/// The resources of one token, read in chunks.
struct Cursor {
    token: i64,
    chunk: Vec<i64>,
    at: usize,
    fetch: usize,
    /// Whether nothing comes after the chunk.
    ended: bool,
}

impl Cursor {
    const fn new(token: i64) -> Self {
        Self { token, chunk: Vec::new(), at: 0, fetch: FIRST_FETCH, ended: false }
    }

    /// The first resource from `from` on. `from` must not go backwards.
    fn seek(&mut self, connection: &Connection, from: i64) -> Result<Option<i64>, StoreError> {
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
        let parameters = [self.token, sql::SHARD, from, self.fetch as i64].map(Parameter::Integer);
        connection.each(sql::POSTINGS, &parameters, |row| {
            self.chunk.push(row.integer(0)?);
            Ok(ControlFlow::Continue(()))
        })?;
        self.ended = self.chunk.len() < self.fetch;
        self.fetch = (self.fetch * 4).min(FETCH_MAX);
        Ok(self.chunk.first().copied())
    }

    fn weight(&self, newest: i64) -> f64 {
        match (self.chunk.first(), self.chunk.last()) {
            (Some(first), Some(last)) if !self.ended => expected(self.chunk.len(), *first, *last, newest),
            _ => self.chunk.len() as f64,
        }
    }
}

/// How many entries there are if they go on as these do.
fn expected(known: usize, first: i64, last: i64, newest: i64) -> f64 {
    let spanned = last.saturating_sub(first).max(1) as f64;
    let remaining = newest.saturating_sub(first).max(1) as f64;
    known as f64 * (remaining / spanned).max(1.0)
}

/// The resources of any of several tokens.
pub(crate) struct Group {
    tokens: Vec<i64>,
    walk: Walk,
    /// How the first entries of its tokens lie, as the server said: how many, from where to where.
    lie: Option<Vec<(usize, i64, i64)>>,
}

enum Walk {
    /// Token by token, each with the entries that come next.
    Here(Vec<Cursor>),
    /// All tokens, and those of other groups, in one round trip.
    There { chunk: VecDeque<i64>, fetch: usize, ended: bool },
}

impl Group {
    pub(crate) fn new(tokens: &[i64]) -> Self {
        Self {
            tokens: tokens.to_vec(),
            walk: Walk::Here(tokens.iter().map(|token| Cursor::new(*token)).collect()),
            lie: None,
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The first resource from `from` on that has one of the tokens, and one of each of the `others`. `from` becomes
    /// the place after it.
    pub(crate) fn next(
        &mut self,
        snapshot: &Snapshot<'_>,
        others: &mut [Self],
        from: &mut i64,
    ) -> Result<Option<i64>, StoreError> {
        if let Connection::Server(_) = snapshot.connection {
            return self.next_there(snapshot, others, from);
        }
        'candidates: while let Some(rid) = self.seek(snapshot.connection, *from)? {
            for other in others.iter_mut() {
                match other.seek(snapshot.connection, rid)? {
                    Some(next) if next == rid => {}
                    // Nothing between has this group's tokens.
                    Some(next) => {
                        *from = next;
                        continue 'candidates;
                    }
                    None => return Ok(None),
                }
            }
            *from = rid.saturating_add(1);
            return Ok(Some(rid));
        }
        Ok(None)
    }

    fn seek(&mut self, connection: &Connection, from: i64) -> Result<Option<i64>, StoreError> {
        let Walk::Here(cursors) = &mut self.walk else { return Ok(None) };
        let mut first: Option<i64> = None;
        for cursor in cursors {
            if let Some(rid) = cursor.seek(connection, from)? {
                first = Some(first.map_or(rid, |first| first.min(rid)));
            }
        }
        Ok(first)
    }

    fn next_there(
        &mut self,
        snapshot: &Snapshot<'_>,
        others: &[Self],
        from: &mut i64,
    ) -> Result<Option<i64>, StoreError> {
        if let Walk::Here(_) = self.walk {
            self.walk = Walk::There { chunk: VecDeque::new(), fetch: FIRST_FETCH, ended: false };
        }
        let Walk::There { chunk, fetch, ended } = &mut self.walk else { return Ok(None) };
        if chunk.is_empty() && !*ended {
            // What the further ones would keep out is found out after decryption.
            let others = &others[..others.len().min(sql::INTERSECTIONS.len() - 1)];
            let mut parameters: Vec<Parameter<'_>> = vec![
                self.tokens.as_slice().into(),
                sql::SHARD.into(),
                (*from).into(),
                (*fetch as i64).into(),
            ];
            parameters.extend(others.iter().map(|other| Parameter::from(other.tokens.as_slice())));
            let found = snapshot
                .connection
                .all(sql::INTERSECTIONS[others.len()], &parameters, |row| row.integer(0))?;
            *ended = found.len() < *fetch;
            *fetch = (*fetch * 4).min(FETCH_MAX);
            snapshot.forget_ahead();
            snapshot.fetch_ahead(&found)?;
            *chunk = found.into();
        }
        let next = chunk.pop_front();
        if let Some(rid) = next {
            *from = rid.saturating_add(1);
        }
        Ok(next)
    }

    /// Whether it has more than so many resources.
    pub(crate) fn exceeds(&mut self, connection: &Connection, most: usize) -> Result<bool, StoreError> {
        if let Connection::Server(_) = connection {
            let most = most as i64;
            let parameters = [self.tokens.as_slice().into(), sql::SHARD.into(), (most + 1).into()];
            let count = connection.one(sql::COUNT_TO, &parameters, |row| row.integer(0))?;
            return Ok(count.unwrap_or_default() > most);
        }
        let mut from = 0;
        for _ in 0..=most {
            let Some(rid) = self.seek(connection, from)? else { return Ok(false) };
            from = rid.saturating_add(1);
        }
        Ok(true)
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
        if let Connection::Server(_) = connection {
            if self.lie.is_none() {
                weigh_there(connection, std::slice::from_mut(self), from)?;
            }
            let weigh = |(known, first, last): &(usize, i64, i64)| {
                if *known < FIRST_FETCH { *known as f64 } else { expected(*known, *first, *last, newest) }
            };
            return Ok(self.lie.iter().flatten().map(weigh).sum());
        }
        let Walk::Here(cursors) = &mut self.walk else { return Ok(0.0) };
        let mut weight = 0.0;
        for cursor in cursors {
            cursor.seek(connection, from)?;
            weight += cursor.weight(newest);
        }
        Ok(weight)
    }
}

/// Prepares for [`Group::weight`] of several groups, where each would be a round trip.
pub(crate) fn weigh(connection: &Connection, groups: &mut [Group], from: i64) -> Result<(), StoreError> {
    match (connection, groups) {
        (Connection::Embedded(_), _) | (_, []) => Ok(()),
        // There is nothing to compare it with.
        (_, [only]) => {
            only.lie = Some(Vec::new());
            Ok(())
        }
        (_, groups) => weigh_there(connection, groups, from),
    }
}

fn weigh_there(connection: &Connection, groups: &mut [Group], from: i64) -> Result<(), StoreError> {
    let mut asked: (Vec<i64>, Vec<i64>) = (Vec::new(), Vec::new());
    for (number, group) in groups.iter_mut().enumerate() {
        asked.0.extend(group.tokens.iter().map(|_| number as i64));
        asked.1.extend(&group.tokens);
        group.lie = Some(Vec::new());
    }
    let parameters = [
        asked.0.as_slice().into(),
        asked.1.as_slice().into(),
        sql::SHARD.into(),
        from.into(),
        (FIRST_FETCH as i64).into(),
    ];
    let read = |row: &Row<'_>| Ok((row.integer(0)?, row.integer(1)?, row.integer(2)?, row.integer(3)?));
    for (number, known, first, last) in connection.all(sql::WEIGH, &parameters, read)? {
        let group = usize::try_from(number).ok().and_then(|number| groups.get_mut(number));
        let lie = group.and_then(|group| group.lie.as_mut()).ok_or(StoreError::Corrupt)?;
        lie.push((usize::try_from(known).unwrap_or(usize::MAX), first, last));
    }
    Ok(())
}
