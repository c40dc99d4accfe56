// elfutils 0.192, as Debian trixie has it, leaves two functions out of its static libelf.a. They keep the tree of the
// chunks that elf_getdata_rawchunk hands out, which libbpf never asks for: the tree is empty from its begin to its end. (If
// that changed, linking would fail for want of eu_tsearch.) Weak: a libelf that has its own wins.

__attribute__((weak)) void eu_search_tree_init(void **tree)
{
	*tree = 0;
}

__attribute__((weak)) void eu_search_tree_fini(void **tree, void (*free_node)(void *))
{
	(void)tree;
	(void)free_node;
}
