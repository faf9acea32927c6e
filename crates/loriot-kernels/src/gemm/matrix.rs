//! Matrix views: a slice with a shape and strides.

use std::ops::Range;

/// A read-only matrix view: element `(r, c)` is `data[r·row_stride + c·col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// `rows` rows of `cols` values each, end to end.
    pub fn row_major(data: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        assert_eq!(data.len(), rows * cols, "length of a {rows}×{cols} matrix");
        Mat::strided(data, rows, cols, cols, 1)
    }

    /// Any strides, 0 included; the last element must lie in `data`.
    pub fn strided(
        data: &'a [f32],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Mat<'a> {
        let needed = if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1) * row_stride + (cols - 1) * col_stride + 1
        };
        assert!(needed <= data.len(), "view of {needed} elements on {}", data.len());
        Mat { data, rows, cols, row_stride, col_stride }
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Mat<'a> {
        let Mat { data, rows, cols, row_stride, col_stride } = self;
        Mat { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// The columns of `range`.
    pub fn columns(self, range: Range<usize>) -> Mat<'a> {
        self.t().rows(range).t()
    }

    /// The rows of `range`.
    pub fn rows(self, range: Range<usize>) -> Mat<'a> {
        assert!(
            range.start <= range.end && range.end <= self.rows,
            "{range:?} of {} rows or columns",
            self.rows
        );
        let rows = range.len();
        let start = if rows == 0 { 0 } else { range.start * self.row_stride };
        // Where there is no column there may be no data either.
        let data = self.data.get(start..).unwrap_or(&[]);
        Mat { data, rows, ..self }
    }

    /// Number of rows.
    pub fn n_rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn n_cols(self) -> usize {
        self.cols
    }

    pub(super) fn row_stride(self) -> usize {
        self.row_stride
    }

    pub(super) fn col_stride(self) -> usize {
        self.col_stride
    }

    /// The elements from `(0, 0)` on.
    pub(super) fn data(self) -> &'a [f32] {
        self.data
    }

    /// Element `(row, col)`.
    pub fn at(self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride]
    }
}

/// A matrix to be written: rows are contiguous, `row_stride` apart.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// `rows` rows of `cols` values each, end to end.
    pub fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> MatMut<'a> {
        assert_eq!(data.len(), rows * cols, "length of a {rows}×{cols} matrix");
        MatMut::strided(data, rows, cols, cols)
    }

    /// Rows `row_stride >= cols` apart; what lies between them is left alone.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> MatMut<'a> {
        let needed = if rows == 0 { 0 } else { (rows - 1) * row_stride + cols };
        assert!(
            cols <= row_stride || rows <= 1,
            "rows of {cols} at a stride of {row_stride} overlap"
        );
        assert!(needed <= data.len(), "view of {needed} elements on {}", data.len());
        MatMut { data, rows, cols, row_stride }
    }

    /// The columns of `range`.
    pub fn columns(self, range: Range<usize>) -> MatMut<'a> {
        assert!(
            range.start <= range.end && range.end <= self.cols,
            "{range:?} of {} columns",
            self.cols
        );
        let start = if self.rows == 0 { 0 } else { range.start };
        MatMut { data: &mut self.data[start..], cols: range.len(), ..self }
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn n_cols(&self) -> usize {
        self.cols
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The elements from `(row, col)` on.
    pub(super) fn from(&mut self, row: usize, col: usize) -> &mut [f32] {
        &mut self.data[row * self.row_stride + col..]
    }
}
