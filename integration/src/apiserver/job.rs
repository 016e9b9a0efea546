//! A write that was read: free of its request, so that it can be done when the client has gone.

use std::sync::Arc;

use http::Response;
use serde_json::Value;

use super::answer::{self, Body, View};
use super::audit::{Verb, WriteContext};
use super::core::Core;
use super::deletes::{DeleteOptions, Deleted};
use super::list::{self, ListOptions};
use super::object;
use super::patch::Patch;
use super::resources::Resource;
use super::selector::Filter;
use super::status::{self, ApiError};
use super::store::Object;
use super::writes::{FieldValidation, Part, UpdateFrom, Writer};

/// A write that is ready to be done.
pub enum Write {
    /// POST of this object.
    Create(Value),
    /// PUT of this object.
    Update(Value),
    /// PATCH.
    Patch(Patch),
    /// DELETE of one object.
    Delete(DeleteOptions),
    /// DELETE of what the filter means.
    DeleteCollection(Box<Filter>, DeleteOptions),
    /// POST of this Eviction.
    Evict(Value),
    /// POST of this Binding.
    Bind(Value),
}

impl Write {
    /// As the audit trail and the hooks call it.
    pub fn verb(&self) -> Verb {
        match self {
            Write::Create(_) | Write::Evict(_) | Write::Bind(_) => Verb::Create,
            Write::Update(_) => Verb::Update,
            Write::Patch(_) => Verb::Patch,
            Write::Delete(_) => Verb::Delete,
            Write::DeleteCollection(..) => Verb::DeleteCollection,
        }
    }
}

/// A write with all it needs, free of its request.
pub struct Job {
    /// The server.
    pub core: Arc<Core>,
    /// Who writes.
    pub context: WriteContext,
    /// What is written.
    pub resource: Arc<Resource>,
    /// Where.
    pub namespace: String,
    /// Empty for a create and a collection.
    pub name: String,
    /// Which part of the object.
    pub part: Part,
    /// Check everything, store nothing.
    pub dry_run: bool,
    /// For unknown fields.
    pub validation: FieldValidation,
    /// What to do.
    pub write: Write,
}

impl Job {
    /// Do it, and show the outcome as asked.
    pub fn run(self, view: View) -> Result<Response<Body>, ApiError> {
        let mut writer = Writer {
            core: &self.core,
            context: self.context,
            resource: &self.resource,
            namespace: &self.namespace,
            dry_run: self.dry_run,
            validation: self.validation,
            warnings: Vec::new(),
        };
        let now = self.core.clock.now();
        let show =
            |code: u16, object: &Object| answer::json_answer(code, &view.object(&self.resource, object, now));
        let mut response = match &self.write {
            Write::Create(body) => show(201, &writer.create(body)?),
            Write::Update(body) => {
                let (object, made) = writer.update(&self.name, self.part, &UpdateFrom::Body(body))?;
                show(if made { 201 } else { 200 }, &object)
            }
            Write::Patch(patch) => {
                let (object, _) = writer.update(&self.name, self.part, &UpdateFrom::Patch(patch))?;
                show(200, &object)
            }
            Write::Delete(options) => {
                deleted_answer(&self.resource, &writer.delete(&self.name, options)?, &show)
            }
            Write::DeleteCollection(filter, options) => delete_collection(&mut writer, filter, options)?,
            Write::Evict(body) => answer::json_answer(201, &writer.evict(&self.name, body)?),
            Write::Bind(body) => answer::json_answer(201, &writer.bind(&self.name, body)?),
        };
        answer::add_warnings(&mut response, &writer.warnings);
        Ok(response)
    }
}

fn deleted_answer(
    resource: &Resource,
    done: &Deleted,
    show: &dyn Fn(u16, &Object) -> Response<Body>,
) -> Response<Body> {
    if done.gone && !resource.returns_deleted {
        let name = object::name(&done.object);
        return answer::json_answer(
            200,
            &status::success(&resource.group_resource(), name, object::uid(&done.object)),
        );
    }
    show(200, &done.object)
}

fn delete_collection(
    writer: &mut Writer<'_>,
    filter: &Filter,
    options: &DeleteOptions,
) -> Result<Response<Body>, ApiError> {
    let resource = writer.resource;
    let page = list::list(writer.core, resource, filter, &ListOptions::default())?;
    for item in &page.items {
        let mut one = in_namespace_of(writer, object::namespace(item));
        match one.delete(object::name(item), options) {
            Ok(_) => {}
            // Someone else was faster.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let list = View::Plain.page(resource, &page, writer.core.clock.now());
    Ok(answer::json_answer(200, &list))
}

/// The same writer for the namespace of one of the objects (a collection may span all).
fn in_namespace_of<'b>(writer: &Writer<'b>, namespace: &'b str) -> Writer<'b> {
    Writer {
        core: writer.core,
        context: writer.context.clone(),
        resource: writer.resource,
        namespace,
        dry_run: writer.dry_run,
        validation: writer.validation,
        warnings: Vec::new(),
    }
}
