//! The objects and their history: one counter for all, one ordered map and one bounded list of
//! changes per collection. Every change goes through [`Store::apply`], which is atomic and tells the
//! audit trail in order. The store never validates.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::audit::{AuditTrail, WriteContext};
use super::object;
use super::resources::GroupResource;

/// A stored object; never changed in place.
pub type Object = Arc<Value>;

/// Where an object lives in its collection. The namespace is empty for cluster-scoped objects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl Key {
    /// The key of this namespace (may be empty) and name.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// One change of one object; `new` is none for a removal.
#[derive(Debug, Clone)]
pub struct Change {
    /// The version that the change made.
    pub version: u64,
    /// The object's place.
    pub key: Key,
    /// What stood there before.
    pub old: Option<Object>,
    /// What stands there now.
    pub new: Option<Object>,
    /// For a removal: the last state, with the version of the removal (what a DELETED event shows).
    pub last: Option<Object>,
}

/// What the caller of [`Store::apply`] believes to stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The object with this version.
    Version(u64),
}

/// The state moved on since the caller looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raced;

/// The version asked for is older than the history that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest version that can still be asked for.
    pub oldest: u64,
}

struct Collection {
    objects: BTreeMap<Key, Object>,
    history: VecDeque<Arc<Change>>,
    /// Changes up to and with this version are forgotten.
    floor: u64,
    newest: watch::Sender<u64>,
}

impl Collection {
    fn new() -> Collection {
        Collection {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            floor: 0,
            newest: watch::Sender::new(0),
        }
    }
}

struct Inner {
    version: u64,
    collections: HashMap<GroupResource, Collection>,
    live_uids: HashMap<String, (GroupResource, Key)>,
    /// By the owner's UID: the objects that name it.
    owned: HashMap<String, BTreeSet<(GroupResource, Key)>>,
}

impl Inner {
    fn index_owners(&mut self, gr: &GroupResource, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        let uids = |object: &Object| -> Vec<String> {
            object::owners(object)
                .iter()
                .filter_map(|o| o["uid"].as_str().map(str::to_owned))
                .collect()
        };
        for uid in old.map(uids).unwrap_or_default() {
            if let Some(owned) = self.owned.get_mut(&uid) {
                owned.remove(&(gr.clone(), key.clone()));
                if owned.is_empty() {
                    self.owned.remove(&uid);
                }
            }
        }
        for uid in new.map(uids).unwrap_or_default() {
            self.owned
                .entry(uid)
                .or_default()
                .insert((gr.clone(), key.clone()));
        }
    }
}

/// All objects of one server.
pub struct Store {
    inner: RwLock<Inner>,
    history_limit: usize,
    audit: Arc<AuditTrail>,
}

/// A consistent view of one collection.
pub struct Snapshot {
    /// The version it shows.
    pub version: u64,
    /// The objects, by key.
    pub objects: BTreeMap<Key, Object>,
}

impl Store {
    /// An empty store that keeps this many changes per collection.
    pub fn new(history_limit: usize, audit: Arc<AuditTrail>) -> Store {
        let inner = Inner {
            version: 1,
            collections: HashMap::new(),
            live_uids: HashMap::new(),
            owned: HashMap::new(),
        };
        Store {
            inner: RwLock::new(inner),
            history_limit,
            audit,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version of all.
    pub fn version(&self) -> u64 {
        self.read().version
    }

    /// The object at this place.
    pub fn get(&self, gr: &GroupResource, key: &Key) -> Option<Object> {
        self.read().collections.get(gr)?.objects.get(key).cloned()
    }

    /// Where the object with this UID lives.
    pub fn find_uid(&self, uid: &str) -> Option<(GroupResource, Key)> {
        self.read().live_uids.get(uid).cloned()
    }

    /// Every object that names this UID as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(GroupResource, Object)> {
        let inner = self.read();
        let places = inner.owned.get(uid).into_iter().flatten();
        let find = |(gr, key): &(GroupResource, Key)| {
            let object = inner.collections.get(gr)?.objects.get(key)?;
            Some((gr.clone(), object.clone()))
        };
        places.filter_map(find).collect()
    }

    /// The collection as it is now, or of one namespace.
    pub fn list(&self, gr: &GroupResource, namespace: &str) -> Vec<Object> {
        let inner = self.read();
        let Some(collection) = inner.collections.get(gr) else {
            return Vec::new();
        };
        let from = Key::new(namespace, "");
        let objects = collection.objects.range(from..);
        objects
            .take_while(|(key, _)| namespace.is_empty() || key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The collections that hold anything.
    pub fn collections(&self) -> Vec<GroupResource> {
        let inner = self.read();
        inner
            .collections
            .iter()
            .filter(|(_, c)| !c.objects.is_empty())
            .map(|(gr, _)| gr.clone())
            .collect()
    }

    /// The collection as it was at `version` (now, when none), from the changes since.
    pub fn snapshot(&self, gr: &GroupResource, version: Option<u64>) -> Result<Snapshot, TooOld> {
        let inner = self.read();
        let at = version.unwrap_or(inner.version);
        let Some(collection) = inner.collections.get(gr) else {
            return Ok(Snapshot {
                version: at,
                objects: BTreeMap::new(),
            });
        };
        if at < collection.floor {
            return Err(TooOld {
                oldest: collection.floor,
            });
        }
        let mut objects = collection.objects.clone();
        for change in collection.history.iter().rev().take_while(|c| c.version > at) {
            match (&change.old, &change.new) {
                (None, _) => drop(objects.remove(&change.key)),
                (Some(old), _) => drop(objects.insert(change.key.clone(), old.clone())),
            }
        }
        Ok(Snapshot { version: at, objects })
    }

    /// The changes after `version`, oldest first, at most `limit`, and the store's newest version.
    pub fn changes_since(
        &self,
        gr: &GroupResource,
        version: u64,
        limit: usize,
    ) -> Result<(Vec<Arc<Change>>, u64), TooOld> {
        let inner = self.read();
        let Some(collection) = inner.collections.get(gr) else {
            return Ok((Vec::new(), inner.version));
        };
        if version < collection.floor {
            return Err(TooOld {
                oldest: collection.floor,
            });
        }
        let start = collection.history.partition_point(|c| c.version <= version);
        let changes: Vec<_> = collection.history.range(start..).take(limit).cloned().collect();
        Ok((changes, inner.version))
    }

    /// Hears of every new version in this collection.
    pub fn subscribe(&self, gr: &GroupResource) -> watch::Receiver<u64> {
        let mut inner = self.write();
        inner
            .collections
            .entry(gr.clone())
            .or_insert_with(Collection::new)
            .newest
            .subscribe()
    }

    /// Put `new` (or, with none, nothing) at this place, if what is expected stands there.
    pub fn apply(
        &self,
        context: &WriteContext,
        gr: &GroupResource,
        key: &Key,
        expected: Expected,
        new: Option<Value>,
    ) -> Result<Object, Raced> {
        let mut guard = self.write();
        let inner = &mut *guard;
        let collection = inner
            .collections
            .entry(gr.clone())
            .or_insert_with(Collection::new);
        let old = collection.objects.get(key).cloned();
        let holds = match (expected, &old) {
            (Expected::Absent, None) => true,
            (Expected::Version(v), Some(old)) => object::version(old) == v,
            (Expected::Absent, Some(_)) | (Expected::Version(_), None) => false,
        };
        if !holds || (old.is_none() && new.is_none()) {
            return Err(Raced);
        }
        if let (Some(old), Some(new)) = (&old, &new)
            && **old == *new
        {
            self.audit
                .record(context, gr, key, object::version(old), Some(old), Some(old));
            return Ok(old.clone());
        }
        inner.version += 1;
        let version = inner.version;
        let stamp = |mut value: Value| {
            object::set_meta(&mut value, "resourceVersion", json!(version.to_string()));
            Arc::new(value)
        };
        let (new_state, last, result) = match new {
            Some(new) => {
                let new = stamp(new);
                collection.objects.insert(key.clone(), new.clone());
                inner
                    .live_uids
                    .insert(object::uid(&new).to_owned(), (gr.clone(), key.clone()));
                (Some(new.clone()), None, new)
            }
            None => {
                collection.objects.remove(key);
                // Checked above: without a new state there was an old one.
                let Some(old) = &old else { return Err(Raced) };
                inner.live_uids.remove(object::uid(old));
                let last = stamp(Value::clone(old));
                (None, Some(last.clone()), last)
            }
        };
        self.audit
            .record(context, gr, key, version, old.as_ref(), new_state.as_ref());
        let (before, after) = (old.clone(), new_state.clone());
        let change = Change {
            version,
            key: key.clone(),
            old,
            new: new_state,
            last,
        };
        collection.history.push_back(Arc::new(change));
        while collection.history.len() > self.history_limit {
            if let Some(gone) = collection.history.pop_front() {
                collection.floor = gone.version;
            }
        }
        collection.newest.send_replace(version);
        inner.index_owners(gr, key, before.as_ref(), after.as_ref());
        Ok(result)
    }

    /// Forget all history, as etcd's compaction does: lists and watches from before answer 410.
    pub fn compact(&self) {
        let mut guard = self.write();
        let version = guard.version;
        for collection in guard.collections.values_mut() {
            collection.history.clear();
            collection.floor = version;
        }
    }

    /// Make a new version without a change, so that bookmarks have something to say.
    pub fn advance(&self) -> u64 {
        let mut guard = self.write();
        guard.version += 1;
        guard.version
    }
}
