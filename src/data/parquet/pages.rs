//! Pages that do not promise more than they hold: the crate asks for the memory of as many dictionary entries as a page's header
//! tells of, before it reads one, and a program that gets no memory ends.

use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};

/// The pages of a column.
pub(super) struct Pages(pub Box<dyn PageReader>);

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.0.get_next_page()?;
        if let Some(Page::DictionaryPage { buf, num_values, .. }) = &page
            // An entry takes a byte at the least.
            && *num_values as usize > buf.len()
        {
            let what = format!("a dictionary of {num_values} entries in {} bytes: damaged", buf.len());
            return Err(ParquetError::General(what));
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.0.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.0.at_record_boundary()
    }
}
