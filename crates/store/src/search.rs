//! Running a query: choose what to walk, decrypt each candidate, check it, order and cut.
//!
//! Without `_sort`, resources come in the order in which they were first stored. The rarest group of tokens is
//! walked, and the other groups skip what cannot match, until a page is full. With `_sort`, all matches are found and
//! ordered in memory, up to a limit; newest or oldest first over many goes along the index by time instead.

use serde_json::Value;
use ward_base::ResourceId;
use ward_fhir::search::{Extracted, Query, extract_for};

use crate::{
    Page, Position, ResourceKey, SearchPage, StoreError, Stored,
    connection::Parameter,
    plan::{self, Plan},
    postings::{self, Group},
    read::{Opened, PAGE_BYTES_MAX, Snapshot, more},
    sorting::{Key, Order},
    sql,
    token::type_token,
    vault::type_number,
};

/// So many candidates are decrypted for one page at most.
const EXAMINED_MAX: usize = 50_000;
/// So many matches are ordered in memory at most.
const SORTED_MAX: usize = 10_000;
/// A group of more tokens is not asked about every candidate: that would cost more than decrypting it.
const PROBED_TOKENS_MAX: usize = 8;
/// With so few candidates, it is not worth looking for fewer among groups of many tokens.
const FEW: f64 = 64.0;
/// How many entries of the index by time are read at once.
const TIME_CHUNK: usize = 256;
/// How many resources are asked for together, where each would be a round trip.
const AHEAD: usize = 32;

/// Answers `query` from `snapshot`.
pub(crate) fn run(snapshot: &Snapshot<'_>, query: &Query, page: &Page) -> Result<SearchPage, StoreError> {
    let plan = plan::plan(snapshot.vault.ring.tokenizer(), query);
    Search { snapshot, query, order: Order::of(query), plan, examined: 0, bytes: 0 }.run(page)
}

struct Search<'a> {
    snapshot: &'a Snapshot<'a>,
    query: &'a Query,
    order: Order,
    plan: Plan,
    examined: usize,
    /// Of the bodies found for this page.
    bytes: usize,
}

/// A resource that matches.
struct Match {
    opened: Opened,
    key: Key,
}

impl Search<'_> {
    fn run(mut self, page: &Page) -> Result<SearchPage, StoreError> {
        let mut found = if page.count == 0 {
            SearchPage::default()
        } else {
            match self.order {
                Order::Stored => self.walked(page)?,
                Order::Updated { newest_first } if self.is_wide()? => self.by_time(page, newest_first)?,
                _ => self.sorted(page)?,
            }
        };
        if plan::wants_total(self.query) {
            found.total = Some(self.total()?);
        }
        Ok(found)
    }

    /// The matches after a place, in the order in which they were first stored.
    fn walked(&mut self, page: &Page) -> Result<SearchPage, StoreError> {
        let after = page.after.as_ref().map(|position| self.order.place(position)).transpose()?;
        let mut walk = self.walk(after.map_or(0, |(_, rid)| rid.saturating_add(1)))?;
        let mut found = Vec::new();
        while found.len() <= page.count as usize && !self.is_full() {
            let Some(rid) = walk.next(self.snapshot)? else { break };
            let checked = self.check(rid)?;
            self.add(&mut found, checked);
        }
        Ok(self.page(found, page))
    }

    /// The matches in the order of their last change, along the index by time.
    fn by_time(&mut self, page: &Page, newest_first: bool) -> Result<SearchPage, StoreError> {
        let (earliest, latest) = self.plan.updated.unwrap_or((i64::MIN, i64::MAX));
        let start = if newest_first { (latest, i64::MAX) } else { (earliest, i64::MIN) };
        let mut place = match &page.after {
            Some(position) => crate::position::moment(position)?,
            None => start,
        };
        let mut found = Vec::new();
        while found.len() <= page.count as usize && !self.is_full() {
            let places = self.places(place, newest_first)?;
            let Some(last) = places.last() else { break };
            place = *last;
            for (index, (updated, rid)) in places.iter().copied().enumerate() {
                if index.is_multiple_of(AHEAD) {
                    let ahead = places.iter().skip(index).take(AHEAD);
                    self.snapshot.fetch_ahead(&ahead.map(|(_, rid)| *rid).collect::<Vec<_>>())?;
                }
                let enough = found.len() > page.count as usize || self.is_full();
                if enough || updated < earliest || updated > latest {
                    return Ok(self.page(found, page));
                }
                let checked = self.check(rid)?;
                self.add(&mut found, checked);
            }
        }
        Ok(self.page(found, page))
    }

    /// The next places in the index by time.
    fn places(&self, after: (i64, i64), newest_first: bool) -> Result<Vec<(i64, i64)>, StoreError> {
        let statement = if newest_first { sql::NEWEST } else { sql::OLDEST };
        let number = type_number(self.query.resource_type);
        let parameters = [sql::SHARD, number, after.0, after.1, 0, TIME_CHUNK as i64].map(Parameter::Integer);
        self.snapshot.connection.all(statement, &parameters, |row| Ok((row.integer(0)?, row.integer(1)?)))
    }

    /// All matches, ordered in memory; then those after a place.
    fn sorted(&mut self, page: &Page) -> Result<SearchPage, StoreError> {
        let after = page.after.as_ref().map(|position| self.order.place(position)).transpose()?;
        let mut walk = self.walk(0)?;
        let mut matches = 0;
        let mut keys: Vec<(Key, i64)> = Vec::new();
        while let Some(rid) = walk.next(self.snapshot)? {
            let Some(Match { key, .. }) = self.check(rid)? else { continue };
            matches += 1;
            if matches > SORTED_MAX {
                return Err(StoreError::TooCostly);
            }
            let comes_after = after
                .as_ref()
                .is_none_or(|(place, at)| self.order.compare((&key, rid), (place, *at)).is_gt());
            if comes_after {
                keys.push((key, rid));
            }
        }
        keys.sort_unstable_by(|a, b| self.order.compare((&a.0, a.1), (&b.0, b.1)));
        keys.truncate(page.count as usize + 1);
        self.snapshot.fetch_ahead(&keys.iter().map(|(_, rid)| *rid).collect::<Vec<_>>())?;
        let mut found = Vec::with_capacity(keys.len());
        for (key, rid) in keys {
            if self.is_full() {
                break;
            }
            let opened = self.snapshot.by_rid(rid)?;
            self.add(&mut found, Some(Match { opened, key }));
        }
        Ok(self.page(found, page))
    }

    fn add(&mut self, found: &mut Vec<Match>, checked: Option<Match>) {
        if let Some(checked) = checked {
            self.bytes = self.bytes.saturating_add(checked.opened.frame.text().len());
            found.push(checked);
        }
    }

    /// Whether the page ends here, however few entries it has.
    const fn is_full(&self) -> bool {
        self.bytes > PAGE_BYTES_MAX
    }

    /// A page out of one entry more than fits, if there is one, or out of what fills it by its size.
    fn page(&self, mut found: Vec<Match>, page: &Page) -> SearchPage {
        let next: Option<Position> = (more(&mut found, page.count) || self.is_full())
            .then(|| {
                found.last().map(|last| self.order.position(&last.key, last.opened.rid, last.opened.updated))
            })
            .flatten();
        let hits: Vec<Stored> = found.into_iter().map(|found| found.opened.into_stored()).collect();
        SearchPage { hits, next, total: None }
    }

    fn total(&mut self) -> Result<u64, StoreError> {
        if self.query.filters.is_empty() {
            let token = type_token(self.snapshot.vault.ring.tokenizer(), self.query.resource_type);
            let parameters = [token.into(), sql::SHARD.into()];
            let count =
                self.snapshot.connection.one(sql::COUNT_POSTINGS, &parameters, |row| row.integer(0))?;
            return Ok(count.unwrap_or_default().unsigned_abs());
        }
        self.examined = 0;
        let mut walk = self.walk(0)?;
        let mut total = 0;
        while let Some(rid) = walk.next(self.snapshot)? {
            total += u64::from(self.check(rid)?.is_some());
        }
        Ok(total)
    }

    /// Decrypts a candidate and checks it against the whole query.
    fn check(&mut self, rid: i64) -> Result<Option<Match>, StoreError> {
        self.examined += 1;
        if self.examined > EXAMINED_MAX {
            return Err(StoreError::TooCostly);
        }
        let opened = self.snapshot.by_rid(rid)?;
        if opened.frame.deleted() || opened.resource_type != self.query.resource_type {
            return Ok(None);
        }
        let needs_values = !self.query.filters.is_empty() || matches!(self.order, Order::Parameters(_));
        let extracted: Vec<Extracted> = if needs_values {
            let resource: Value =
                serde_json::from_slice(opened.frame.text()).map_err(|_| StoreError::Corrupt)?;
            extract_for(self.query, &resource, &self.snapshot.vault.base_url)
        } else {
            Vec::new()
        };
        let id = opened.frame.id.as_str();
        if !self.query.matches(&extracted, id, opened.updated) {
            return Ok(None);
        }
        let key = self.order.key(&extracted, id, opened.updated);
        Ok(Some(Match { opened, key }))
    }

    /// Whether so many resources are left that ordering them in memory is out of the question.
    fn is_wide(&self) -> Result<bool, StoreError> {
        if self.plan.ids.is_some() {
            return Ok(false);
        }
        let newest = self.newest();
        let mut wide = true;
        for tokens in &self.plan.groups {
            wide &= Group::new(tokens).weight(self.snapshot.connection, 0, newest)? > SORTED_MAX as f64;
        }
        Ok(wide)
    }

    /// A row id after all there are.
    fn newest(&self) -> i64 {
        self.snapshot.vault.clock.now().micros().saturating_mul(1 << 10)
    }

    /// What to walk from `from` on.
    fn walk(&self, from: i64) -> Result<Walk, StoreError> {
        if let Some(ids) = &self.plan.ids {
            return self.by_ids(ids, from);
        }
        if let (Some(span), true) = (self.plan.updated, self.plan.groups.is_empty())
            && let Some(walk) = self.changed_within(span, from)?
        {
            return Ok(walk);
        }
        let mut groups: Vec<Group> = self.plan.groups.iter().map(|tokens| Group::new(tokens)).collect();
        groups.sort_by_key(Group::tokens);
        postings::weigh(self.snapshot.connection, &mut groups, from)?;
        let newest = self.newest();
        let mut weighed: Vec<(f64, Group)> = Vec::new();
        for mut group in groups {
            if group.tokens() > PROBED_TOKENS_MAX && weighed.first().is_some_and(|(weight, _)| *weight <= FEW)
            {
                break;
            }
            let weight = group.weight(self.snapshot.connection, from, newest)?;
            let place = weighed.partition_point(|(other, _)| *other <= weight);
            weighed.insert(place, (weight, group));
        }
        let mut groups = weighed.into_iter().map(|(_, group)| group);
        let driver = match groups.next() {
            Some(group) => group,
            None => Group::new(&[type_token(self.snapshot.vault.ring.tokenizer(), self.query.resource_type)]),
        };
        let others = groups.filter(|group| group.tokens() <= PROBED_TOKENS_MAX).collect();
        Ok(Walk::Groups { driver, others, from })
    }

    fn by_ids(&self, ids: &[String], from: i64) -> Result<Walk, StoreError> {
        let mut rids = Vec::new();
        for id in ids {
            // What is not an id is no resource's id.
            let Ok(id) = ResourceId::parse(id) else { continue };
            let key = ResourceKey { resource_type: self.query.resource_type, id };
            let token = self.snapshot.vault.id_token(&key);
            let parameters = [sql::SHARD.into(), (&token).into()];
            rids.extend(self.snapshot.connection.one(sql::RID_BY_ID, &parameters, |row| row.integer(0))?);
        }
        Ok(Walk::list(rids, from))
    }

    /// The resources changed within a span of time, unless they are too many to list.
    fn changed_within(&self, (earliest, latest): (i64, i64), from: i64) -> Result<Option<Walk>, StoreError> {
        let mut rids = Vec::new();
        let mut place = (earliest, i64::MIN);
        loop {
            let places = self.places(place, false)?;
            let Some(last) = places.last() else { break };
            place = *last;
            rids.extend(places.iter().filter(|(updated, _)| *updated <= latest).map(|(_, rid)| *rid));
            if rids.len() > EXAMINED_MAX {
                return Ok(None);
            }
            if place.0 > latest {
                break;
            }
        }
        Ok(Some(Walk::list(rids, from)))
    }
}

/// Candidates in the order of their row ids.
enum Walk {
    List(std::vec::IntoIter<i64>),
    Groups { driver: Group, others: Vec<Group>, from: i64 },
}

impl Walk {
    fn list(mut rids: Vec<i64>, from: i64) -> Self {
        rids.retain(|rid| *rid >= from);
        rids.sort_unstable();
        rids.dedup();
        Self::List(rids.into_iter())
    }

    fn next(&mut self, snapshot: &Snapshot<'_>) -> Result<Option<i64>, StoreError> {
        let (driver, others, from) = match self {
            Self::List(rids) => return Ok(rids.next()),
            Self::Groups { driver, others, from } => (driver, others, from),
        };
        driver.next(snapshot, others, from)
    }
}
