package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBoxIsAddedToAnyImageOnce(t *testing.T) {
	for name, before := range map[string]map[string]string{
		"an empty image": {},
		"one without a newline": {
			"passwd": "root:x:0:0::/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh",
			"shadow": "root:*:1:::::",
		},
		"one that has box": {"passwd": "box:x:1000:1000::/work:/bin/bash\n", "group": "box:x:1000:\n"},
	} {
		folder := filepath.Join(t.TempDir(), "etc")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, content := range before {
			if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := addAccounts(folder); err != nil {
				t.Fatal(err)
			}
		}
		for _, file := range []string{"passwd", "group", "shadow"} {
			content, err := os.ReadFile(filepath.Join(folder, file))
			if file == "shadow" && before["shadow"] == "" {
				if !os.IsNotExist(err) {
					t.Errorf("%s: a shadow file was made", name)
				}
				continue
			}
			if err != nil || !strings.HasPrefix(string(content), before[file]) && before[file] != "" {
				t.Errorf("%s: %s has %q, %v", name, file, content, err)
			}
			if count := strings.Count("\n"+string(content), "\nbox:"); count != 1 {
				t.Errorf("%s: %s names box %d times: %q", name, file, count, content)
			}
		}
		if found, _ := filepath.Glob(folder + "/*.callbox"); len(found) != 0 {
			t.Errorf("%s: left %v", name, found)
		}
	}
}

func TestABlockedFolderIsNotMadeThroughALink(t *testing.T) {
	folder := t.TempDir()
	if err := os.Symlink("/etc", folder+"/work"); err != nil {
		t.Fatal(err)
	}
	if err := makeFolder(folder+"/work", 0o777, os.Getuid()); err == nil {
		t.Fatal("a link was taken for the folder")
	}
	if err := makeFolder(folder+"/made", 0o1777, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(folder + "/made"); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
}
