package packtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/agenthypervisor/hypervisor/action"
)

// A snapshot is a case's state at one time: each thing by its name.
type snapshot map[string]string

// take reads the state.
func (t *trial) take(ctx context.Context) (snapshot, error) {
	state := t.cases.State
	if t.State != nil {
		state = *t.State
	}
	s := snapshot{}
	if state.Files {
		if err := s.addFiles(t.dir, state.Except); err != nil {
			return nil, fmt.Errorf("reading the folder: %w", err)
		}
	}
	for i, c := range state.Calls {
		r, err := t.call(ctx, c.Tool, inDir(c.Args, t.dir))
		if err != nil {
			return nil, fmt.Errorf("reading the state: %w", err)
		}
		value, err := seen(r, state.AnyOrder)
		if err != nil {
			return nil, fmt.Errorf("reading the state: %s: %w", c.Tool, err)
		}
		s[fmt.Sprintf("what %s answers (call %d)", c.Tool, i+1)] = value
	}
	return s, nil
}

// addFiles adds every entry of a folder but those that match a pattern of except, and what is under them.
func (s snapshot) addFiles(dir string, except []string) error {
	return filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if matches(except, rel) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		s[rel], err = entryText(name, info)
		return err
	})
}

// entryText returns kind, permission bits and contents of an entry.
func entryText(name string, info fs.FileInfo) (string, error) {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(name)
		return "link to " + to, err
	case !info.Mode().IsRegular():
		return info.Mode().String(), nil
	}
	b, err := os.ReadFile(name)
	return info.Mode().String() + "\n" + string(b), err
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// covered reports whether a name, or a folder it is in, matches a pattern.
func covered(patterns []string, name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if matches(patterns, name) {
			return true
		}
	}
	return false
}

// difference says what is otherwise than it was, but for what the patterns cover; left reports whether they covered anything.
func (s snapshot) difference(now snapshot, leaves []string) (what []string, left bool) {
	names := slices.Sorted(maps.Keys(s))
	for name := range now {
		if _, ok := s[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		was, wasThere := s[name]
		is, isThere := now[name]
		say := ""
		switch {
		case !wasThere:
			say = name + " was not there"
		case !isThere:
			say = name + " is gone"
		case was != is:
			say = fmt.Sprintf("%s reads %q and was %q", name, clip(is), clip(was))
		default:
			continue
		}
		if covered(leaves, name) {
			left = true
			continue
		}
		what = append(what, say)
	}
	return what, left
}

// seen returns what a tool answered, as one comparable text.
func seen(r action.Result, anyOrder bool) (string, error) {
	value := r.Value
	if object, ok := value.(map[string]any); ok {
		var said any
		switch {
		case object["structuredContent"] != nil:
			value = object["structuredContent"]
		case json.Unmarshal([]byte(r.Text), &said) == nil:
			value = said
		default:
			value = r.Text
		}
	}
	if anyOrder {
		var err error
		if value, err = sorted(value); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(value)
	return string(b), err
}

// sorted returns a value with every list in it in the order of its elements' JSON.
func sorted(value any) (any, error) {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			var err error
			if out[k], err = sorted(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case []any:
		type element struct {
			value any
			text  []byte
		}
		elements := make([]element, len(v))
		for i, e := range v {
			var err error
			if elements[i].value, err = sorted(e); err != nil {
				return nil, err
			}
			if elements[i].text, err = json.Marshal(elements[i].value); err != nil {
				return nil, err
			}
		}
		slices.SortFunc(elements, func(a, b element) int { return cmp.Or(bytes.Compare(a.text, b.text)) })
		out := make([]any, len(v))
		for i, e := range elements {
			out[i] = e.value
		}
		return out, nil
	}
	return value, nil
}

// clip bounds what of a text is shown.
func clip(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
