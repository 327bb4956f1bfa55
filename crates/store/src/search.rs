//! Running a query: choose what to walk, decrypt each candidate, check it, order and cut.
//!
//! Without `_sort`, resources come in the order in which they were first stored. The rarest group of tokens is
//! walked, and the other groups skip what cannot match, until a page is full. With `_sort`, all matches are found and
//! ordered in memory, up to a limit; newest or oldest first over many goes along the index by time instead.

use std::cell::Cell;

use ward_base::ResourceId;
use ward_fhir::search::{Extracted, Filter, Query};

use crate::{
    Page, ResourceKey, SearchPage, StoreError,
    connection::Parameter,
    includes,
    links::{Compiled, values},
    plan::{self, Plan},
    position,
    postings::{self, Group},
    read::{Opened, PAGE_BYTES_MAX, Snapshot, more},
    sorting::{Key, Order},
    sql,
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

/// Counts what one search examines, whatever for.
pub(crate) struct Budget {
    spent: Cell<usize>,
    most: usize,
}

impl Budget {
    fn of(query: &Query) -> Self {
        let most = query.effort.map_or(EXAMINED_MAX, |effort| effort.min(EXAMINED_MAX));
        Self { spent: Cell::new(0), most }
    }

    /// One resource more is to be decrypted.
    pub(crate) fn examine(&self) -> Result<(), StoreError> {
        let examined = self.spent.get() + 1;
        self.spent.set(examined);
        if examined > self.most { Err(StoreError::TooCostly) } else { Ok(()) }
    }

    fn spent(&self) -> usize {
        self.spent.get()
    }
}

/// Answers `queries`, one for each type, from `snapshot`.
pub(crate) fn run(snapshot: &Snapshot<'_>, queries: &[Query], page: &Page) -> Result<SearchPage, StoreError> {
    let Some(first) = queries.first() else { return Ok(SearchPage::default()) };
    let (order, budget) = (Order::of(first), Budget::of(first));
    let compiled =
        queries.iter().map(|query| Compiled::new(snapshot, query, &budget)).collect::<Result<Vec<_>, _>>()?;
    let (mut found, mut all) = (Vec::new(), true);
    // Where a type's matches were cut off: those of others after it wait for the next page.
    let mut cut: Option<(Key, i64)> = None;
    for compiled in compiled.iter().filter(|_| page.count > 0) {
        let (matches, complete) = Search::new(snapshot, compiled, None, &budget).page(page)?;
        all &= complete;
        if let (false, Some(last)) = (complete, matches.last()) {
            let last = (last.key.clone(), last.opened.rid);
            let earlier = |cut: &(Key, i64)| order.compare((&last.0, last.1), (&cut.0, cut.1)).is_lt();
            if cut.as_ref().is_none_or(earlier) {
                cut = Some(last);
            }
        }
        found.extend(matches);
    }
    if queries.len() > 1 {
        found.sort_by(|a, b| order.compare((&a.key, a.opened.rid), (&b.key, b.opened.rid)));
        if let Some((key, rid)) = &cut {
            found.retain(|one| order.compare((&one.key, one.opened.rid), (key, *rid)).is_le());
        }
    }
    all &= !more(&mut found, page.count);
    // Each type alone keeps the bound; together they may not.
    let mut bytes = 0_usize;
    let within = found.iter().take_while(|one| {
        let before = bytes;
        bytes = bytes.saturating_add(one.opened.frame.text().len());
        before <= PAGE_BYTES_MAX
    });
    let within = within.count();
    all &= within == found.len();
    found.truncate(within);
    let part = page.after.as_ref().and_then(position::last);
    let next = found.last().filter(|_| !all).map(|found| match part {
        Some(last) => position::of_part(found.opened.rid, last),
        None => order.position(&found.key, found.opened.rid, found.opened.updated),
    });
    let matches: Vec<&Opened> = found.iter().map(|found| &found.opened).collect();
    let included =
        includes::run(snapshot, &includes::of(queries), first.visible.as_deref(), &matches, &budget)?;
    let mut total = None;
    if plan::wants_total(first) {
        let budget = Budget::of(first);
        let counted = compiled.iter().map(|one| Search::new(snapshot, one, None, &budget).total());
        total = Some(counted.sum::<Result<u64, StoreError>>()?);
    }
    let stored = |all: Vec<Opened>| all.into_iter().map(Opened::into_stored).collect();
    let hits = found.into_iter().map(|found| found.opened).collect();
    Ok(SearchPage { hits: stored(hits), included: stored(included), next, total })
}

/// A search for resources of one type.
pub(crate) struct Search<'a> {
    snapshot: &'a Snapshot<'a>,
    compiled: &'a Compiled<'a>,
    further: Option<Filter>,
    order: Order,
    plan: Plan,
    budget: &'a Budget,
    /// Of the bodies found for this page.
    bytes: usize,
}

/// A resource that matches.
struct Match {
    opened: Opened,
    key: Key,
}

impl<'a> Search<'a> {
    /// A search for what meets the query, and a further filter if there is one.
    pub(crate) fn new(
        snapshot: &'a Snapshot<'a>,
        compiled: &'a Compiled<'a>,
        further: Option<Filter>,
        budget: &'a Budget,
    ) -> Self {
        let plan = compiled.plan(snapshot, further.as_ref());
        Self { snapshot, compiled, further, order: Order::of(compiled.query), plan, budget, bytes: 0 }
    }

    /// All that match, in no order, unless they are more than `most`, too large to be held together, or more than
    /// `examined_max` have to be looked at.
    pub(crate) fn list(
        &mut self,
        most: usize,
        examined_max: usize,
    ) -> Result<Option<Vec<Opened>>, StoreError> {
        let started = self.budget.spent();
        let mut walk = self.walk(0)?;
        let mut found = Vec::new();
        while let Some(rid) = walk.next(self.snapshot)? {
            if self.budget.spent() - started >= examined_max {
                return Ok(None);
            }
            if let Some(checked) = self.check(rid)? {
                self.add_bytes(&checked);
                if found.len() == most || self.is_full() {
                    return Ok(None);
                }
                found.push(checked.opened);
            }
        }
        Ok(Some(found))
    }

    /// Whether anything matches.
    pub(crate) fn any(&mut self) -> Result<bool, StoreError> {
        let mut walk = self.walk(0)?;
        while let Some(rid) = walk.next(self.snapshot)? {
            if self.check(rid)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// About how many candidates there are, exact when few.
    pub(crate) fn weight(&self) -> Result<f64, StoreError> {
        if let Some(ids) = &self.plan.ids {
            return Ok(ids.len() as f64);
        }
        let newest = self.newest();
        let mut least = f64::INFINITY;
        for tokens in &self.plan.groups {
            least = least.min(Group::new(tokens).weight(self.snapshot.connection, 0, newest)?);
        }
        Ok(least)
    }

    /// The matches of a page and one more if there is one, in order; and whether there are no others.
    fn page(&mut self, page: &Page) -> Result<(Vec<Match>, bool), StoreError> {
        let found = match self.order {
            Order::Stored => self.walked(page)?,
            Order::Updated { newest_first } if self.is_wide()? => self.by_time(page, newest_first)?,
            _ => self.sorted(page)?,
        };
        let all = found.len() <= page.count as usize && !self.is_full();
        Ok((found, all))
    }

    /// The matches after a place, in the order in which they were first stored.
    fn walked(&mut self, page: &Page) -> Result<Vec<Match>, StoreError> {
        let after = page.after.as_ref().map(|position| self.order.place(position)).transpose()?;
        let last = page.after.as_ref().and_then(position::last);
        let mut walk = self.walk(after.map_or(0, |(_, rid)| rid.saturating_add(1)))?;
        let mut found = Vec::new();
        while found.len() <= page.count as usize && !self.is_full() {
            let next = walk.next(self.snapshot)?;
            let Some(rid) = next.filter(|rid| last.is_none_or(|last| *rid <= last)) else { break };
            let checked = self.check(rid)?;
            self.add(&mut found, checked);
        }
        Ok(found)
    }

    /// The matches in the order of their last change, along the index by time.
    fn by_time(&mut self, page: &Page, newest_first: bool) -> Result<Vec<Match>, StoreError> {
        let (earliest, latest) = self.plan.updated.unwrap_or((i64::MIN, i64::MAX));
        let start = if newest_first { (latest, i64::MAX) } else { (earliest, i64::MIN) };
        let mut place = match &page.after {
            Some(position) => position::moment(position)?,
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
                    return Ok(found);
                }
                let checked = self.check(rid)?;
                self.add(&mut found, checked);
            }
        }
        Ok(found)
    }

    /// The next places in the index by time.
    fn places(&self, after: (i64, i64), newest_first: bool) -> Result<Vec<(i64, i64)>, StoreError> {
        let statement = if newest_first { sql::NEWEST } else { sql::OLDEST };
        let number = type_number(self.query().resource_type);
        let parameters = [sql::SHARD, number, after.0, after.1, 0, TIME_CHUNK as i64].map(Parameter::Integer);
        self.snapshot.connection.all(statement, &parameters, |row| Ok((row.integer(0)?, row.integer(1)?)))
    }

    /// All matches, ordered in memory; then those after a place.
    fn sorted(&mut self, page: &Page) -> Result<Vec<Match>, StoreError> {
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
        Ok(found)
    }

    fn add(&mut self, found: &mut Vec<Match>, checked: Option<Match>) {
        if let Some(checked) = checked {
            self.add_bytes(&checked);
            found.push(checked);
        }
    }

    fn add_bytes(&mut self, checked: &Match) {
        self.bytes = self.bytes.saturating_add(checked.opened.frame.text().len());
    }

    /// Whether the page ends here, however few entries it has.
    const fn is_full(&self) -> bool {
        self.bytes > PAGE_BYTES_MAX
    }

    fn total(&mut self) -> Result<u64, StoreError> {
        if self.query().is_all() {
            return self.snapshot.count_of(self.query().resource_type);
        }
        let mut walk = self.walk(0)?;
        let mut total = 0;
        while let Some(rid) = walk.next(self.snapshot)? {
            total += u64::from(self.check(rid)?.is_some());
        }
        Ok(total)
    }

    fn query(&self) -> &'a Query {
        self.compiled.query
    }

    /// Decrypts a candidate and checks it against the whole query.
    fn check(&mut self, rid: i64) -> Result<Option<Match>, StoreError> {
        self.budget.examine()?;
        let opened = self.snapshot.by_rid(rid)?;
        if let Some(further) = &self.further {
            if opened.frame.deleted() || opened.resource_type != self.query().resource_type {
                return Ok(None);
            }
            let parameter = further.parameter;
            let values = values(self.snapshot, &opened, parameter)?;
            let extracted: Vec<Extracted> =
                values.into_iter().map(|value| Extracted { parameter, value }).collect();
            if !further.matches(&extracted, opened.frame.id.as_str(), opened.updated) {
                return Ok(None);
            }
        }
        let Some(extracted) = self.compiled.met_by(self.snapshot, &opened, self.budget)? else {
            return Ok(None);
        };
        let key = self.order.key(&extracted, opened.frame.id.as_str(), opened.updated);
        Ok(Some(Match { opened, key }))
    }

    /// Whether so many resources are left that ordering them in memory is out of the question.
    fn is_wide(&self) -> Result<bool, StoreError> {
        if self.plan.ids.is_some() {
            return Ok(false);
        }
        for tokens in &self.plan.groups {
            if !Group::new(tokens).exceeds(self.snapshot.connection, SORTED_MAX)? {
                return Ok(false);
            }
        }
        Ok(true)
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
            None => Group::new(&self.snapshot.index.type_tokens(self.query().resource_type)),
        };
        let others = groups.filter(|group| group.tokens() <= PROBED_TOKENS_MAX).collect();
        Ok(Walk::Groups { driver, others, from })
    }

    fn by_ids(&self, ids: &[String], from: i64) -> Result<Walk, StoreError> {
        let mut rids = Vec::new();
        for id in ids {
            // What is not an id is no resource's id.
            let Ok(id) = ResourceId::parse(id) else { continue };
            let key = ResourceKey { resource_type: self.query().resource_type, id };
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
