//! The model as the reconciler reads it.

use crate::model::index::Model;
use crate::model::name::ObjectName;
use crate::plan::{NodeView, ServiceView};
use crate::reconcile::Objects;

/// A borrowed model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelObjects<'a>(pub(crate) &'a Model);

impl<'a> ModelObjects<'a> {
    /// The node, as far as the source has named it.
    pub(crate) fn node_view(self) -> NodeView<'a> {
        let Self(model) = self;
        let node = model.node();
        NodeView {
            name: model.node_name(),
            zone: node.and_then(|node| node.zone.as_deref()),
            addresses: node.map_or(&[], |node| &node.addresses),
            device_addresses: model.device_addresses(),
            service_cidrs: model.service_cidrs(),
        }
    }
}

impl Objects for ModelObjects<'_> {
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        let Self(model) = *self;
        let service = model.service(name)?;
        Some(ServiceView::new(service, model.slices(name)))
    }

    fn names(&self) -> Vec<ObjectName> {
        let Self(model) = *self;
        model
            .services()
            .map(|service| service.name.clone())
            .collect()
    }

    fn node(&self) -> NodeView<'_> {
        self.node_view()
    }
}
