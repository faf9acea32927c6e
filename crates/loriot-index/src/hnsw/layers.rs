//! The lists of a finished graph, in memory or in a mapped file.

use super::beam::Links;
use bytemuck::Pod;
use loriot_files::Mmap;
use std::ops::Range;
use std::sync::Arc;

/// Numbers in memory, or in a part of a file that is aligned for them and whole.
#[derive(Debug)]
pub(super) enum Array<T> {
    Memory(Vec<T>),
    File { map: Arc<Mmap>, bytes: Range<usize> },
}

impl<T: Pod> Array<T> {
    pub(super) fn get(&self) -> &[T] {
        match self {
            Array::Memory(numbers) => numbers,
            Array::File { map, bytes } => bytemuck::cast_slice(&map[bytes.clone()]),
        }
    }
}

/// A level of the graph: the links of its nodes, which are those with the lowest numbers.
#[derive(Debug)]
pub(super) struct Layer {
    /// Where a node's links begin in `links`, and at the end their number.
    pub(super) starts: Array<u64>,
    /// Nodes of this level.
    pub(super) links: Array<u32>,
}

impl Layer {
    pub(super) fn new(starts: Vec<u64>, links: Vec<u32>) -> Layer {
        Layer { starts: Array::Memory(starts), links: Array::Memory(links) }
    }
}

/// All levels, level 0 first; node 0 is in each.
pub(super) type Layers = Vec<Layer>;

/// The same as slices, made once for each search.
pub(super) struct LayerSlices<'a>(Vec<(&'a [u64], &'a [u32])>);

impl<'a> LayerSlices<'a> {
    pub(super) fn new(layers: &'a Layers) -> LayerSlices<'a> {
        LayerSlices(layers.iter().map(|layer| (layer.starts.get(), layer.links.get())).collect())
    }

    pub(super) fn n_levels(&self) -> usize {
        self.0.len()
    }
}

impl Links for LayerSlices<'_> {
    fn append_to(&self, links: &mut Vec<u32>, level: usize, node: u32) {
        let (starts, all) = self.0[level];
        let range = starts[node as usize] as usize..starts[node as usize + 1] as usize;
        links.extend_from_slice(&all[range]);
    }
}
