package boot

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"
)

func TestThePreloadedLibraryNeedsNothingAndGivesOnlyStatx(t *testing.T) {
	library, err := elf.NewFile(bytes.NewReader(statxBinary))
	if err != nil {
		t.Fatal(err)
	}
	needed, _ := library.ImportedLibraries()
	symbols, err := library.DynamicSymbols()
	if err != nil || len(needed) > 0 {
		t.Fatalf("%v, needs %v", err, needed)
	}
	found := map[string]bool{}
	for _, each := range symbols {
		found[each.Name] = each.Section != elf.SHN_UNDEF
	}
	if len(found) != 2 || !found["statx"] || found["syscall"] {
		t.Fatalf("symbols: %v", found)
	}
	if executable := library.Section(".symtab"); executable != nil {
		t.Error("not stripped")
	}
}

func TestThePreloadListKeepsWhatItHas(t *testing.T) {
	for before, after := range map[string]string{
		"":                       "LIB\n",
		"/lib/other.so":          "LIB\n/lib/other.so",
		"/a.so /b.so\n":          "LIB\n/a.so /b.so\n",
		"/a.so LIB\n":            "/a.so LIB\n",
		"LIB\n/lib/another.so\n": "LIB\n/lib/another.so\n",
	} {
		folder := t.TempDir()
		library, list := filepath.Join(folder, "usr/lib/callbox/statx.so"), filepath.Join(folder, "ld.so.preload")
		named := func(text string) string {
			return string(bytes.ReplaceAll([]byte(text), []byte("LIB"), []byte(library)))
		}
		if before != "" {
			if err := os.WriteFile(list, []byte(named(before)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := installPreload(library, list); err != nil {
				t.Fatal(err)
			}
			if content, _ := os.ReadFile(list); string(content) != named(after) {
				t.Errorf("%q became %q", before, content)
			}
		}
		content, err := os.ReadFile(library)
		if err != nil || !bytes.Equal(content, statxBinary) {
			t.Error("the library was not written")
		}
		if info, _ := os.Stat(library); info.Mode().Perm() != 0o644 {
			t.Errorf("mode %o", info.Mode())
		}
	}
}

func TestThisKernelTakesTheFlag(t *testing.T) {
	if refusesNoAutomount() {
		t.Error("the probe says that statx is broken here")
	}
}
