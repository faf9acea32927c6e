//! Texts that are gone through more than once without being held in memory.

use loriot_data::{ProductTexts, Spool};
use std::borrow::Cow;
use std::io;

/// Texts in an order: the same ones each time.
pub trait Texts {
    /// The texts from the first on.
    fn texts(&self) -> impl Iterator<Item = io::Result<Cow<'_, str>>>;
}

impl Texts for [&str] {
    fn texts(&self) -> impl Iterator<Item = io::Result<Cow<'_, str>>> {
        self.iter().map(|&text| Ok(Cow::Borrowed(text)))
    }
}

/// The products' titles.
impl Texts for Spool {
    fn texts(&self) -> impl Iterator<Item = io::Result<Cow<'_, str>>> {
        self.products().map(|product| Ok(Cow::Owned(product?.product_title)))
    }
}

/// What a template makes of products.
#[derive(Clone, Copy, Debug)]
pub struct Templated<'a> {
    /// The products.
    pub products: &'a Spool,
    /// The template.
    pub template: &'a ProductTexts,
}

impl Texts for Templated<'_> {
    fn texts(&self) -> impl Iterator<Item = io::Result<Cow<'_, str>>> {
        self.products.products().map(|product| Ok(Cow::Owned(self.template.text(&product?))))
    }
}
