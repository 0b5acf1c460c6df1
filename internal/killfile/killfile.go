package killfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/agenthypervisor/hypervisor/policy"
)

const (
	// Name is the file's name in the data directory.
	Name = "kill"
	// SlotBytes is the size of each of the two slots: room for a thousand kills of the longest names, and for some five thousand of
	// usual ones.
	SlotBytes = 1 << 20
	slots     = 2

	magic      = "hvkills1"
	headBytes  = len(magic) + 8 + 4 + sha256.Size // generation, length and checksum
	listBytes  = SlotBytes - headBytes
	fileBytes  = slots * SlotBytes
	fileMode   = 0o600
	unfinished = Name + ".new"
)

var (
	// ErrDamaged is returned by Open for a file that is there and says nothing that can be believed.
	ErrDamaged = errors.New("the kill file is damaged")
	// ErrTooMany is returned by Write for kills that find no room in a slot.
	ErrTooMany = errors.New("too many kills for the kill file")
)

// A File holds the kills in force. Two slots take turns: each write overwrites the older one and syncs, so that a torn write
// leaves the list before it. It is a handle and has one owner.
type File struct {
	f          *os.File
	generation uint64 // of the newest list that was written; it stands in the slot generation % slots
}

// Open opens the file in dir, or makes it at its full size, and returns the kills it holds. With ErrDamaged, which comes when it
// holds no list that verifies, the File can be written to all the same; with any other error there is none.
func Open(dir string) (*File, []policy.Kill, error) {
	path := filepath.Join(dir, Name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(dir); err != nil {
			return nil, nil, fmt.Errorf("making the kill file: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, fileMode)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the kill file: %w", err)
	}
	file := &File{f: f}
	kills, err := file.read()
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, nil, errors.Join(fmt.Errorf("reading the kill file: %w", err), f.Close())
	}
	return file, kills, err
}

// create makes the file with an empty list and all its room, under another name first: there is never one without a list.
func create(dir string) (err error) {
	path := filepath.Join(dir, unfinished)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	room := make([]byte, fileBytes) // zeros are written, not left out, so that overwriting them takes no more room
	copy(room, slot(0, []byte("[]")))
	_, err = f.Write(room)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(dir, Name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a directory's names durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read takes the newer of the lists that verify.
func (f *File) read() (kills []policy.Kill, err error) {
	found := false
	for i := range slots {
		generation, list, ok := parse(f.readSlot(int64(i) * SlotBytes))
		if !ok || found && generation < f.generation {
			continue
		}
		var said []policy.Kill
		if err := json.Unmarshal(list, &said); err != nil {
			continue
		}
		found, f.generation, kills = true, generation, said
	}
	if !found {
		return nil, ErrDamaged
	}
	return kills, nil
}

// readSlot returns what stands in the slot at a place up to the end of its list, as far as there is so much: the room behind it may be
// a thousand times as large.
func (f *File) readSlot(at int64) []byte {
	b := make([]byte, headBytes)
	if n, err := f.f.ReadAt(b, at); err != nil {
		return b[:n] // the file was cut short; the other slot may do
	}
	length := min(binary.BigEndian.Uint32(b[len(magic)+8:]), uint32(listBytes))
	b = make([]byte, headBytes+int(length))
	n, _ := f.f.ReadAt(b, at) // what is missing the checksum misses
	return b[:n]
}

// Write puts the kills in force in the place of the older list. They are durable when it returns nil. On an error the newer list
// stands as it was, or the new one does. With ErrTooMany nothing was written.
func (f *File) Write(kills []policy.Kill) error {
	list, err := json.Marshal(kills)
	if err != nil {
		return fmt.Errorf("encoding the kills: %w", err)
	}
	if len(list) > listBytes {
		return fmt.Errorf("%w: %d bytes, and there is room for %d", ErrTooMany, len(list), listBytes)
	}
	next := f.generation + 1
	_, err = f.f.WriteAt(slot(next, list), int64(next%slots)*SlotBytes)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the kill file: %w", err) // the next try overwrites the same slot: the other one holds
	}
	f.generation = next
	return nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// slot returns the bytes of a slot up to the end of its list: magic, generation, length, checksum over these and the list, list.
func slot(generation uint64, list []byte) []byte {
	b := make([]byte, 0, headBytes+len(list))
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint64(b, generation)
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	sum := checksum(b, list)
	return append(append(b, sum[:]...), list...)
}

func checksum(head, list []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write(head)
	h.Write(list)
	h.Sum(sum[:0])
	return sum
}

// parse returns a slot's list if it verifies.
func parse(b []byte) (generation uint64, list []byte, ok bool) {
	if len(b) < headBytes {
		return 0, nil, false
	}
	head, rest := b[:headBytes-sha256.Size], b[headBytes-sha256.Size:]
	if !bytes.HasPrefix(head, []byte(magic)) {
		return 0, nil, false
	}
	generation = binary.BigEndian.Uint64(head[len(magic):])
	length := binary.BigEndian.Uint32(head[len(magic)+8:])
	if int64(length) > int64(len(b)-headBytes) {
		return 0, nil, false
	}
	list = rest[sha256.Size:][:length]
	sum := checksum(head, list)
	return generation, list, bytes.Equal(sum[:], rest[:sha256.Size])
}
