// Package sanity holds no code of ours but this: proto/proto/csi/v1/csi.proto says what the published specification says.
package sanity

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// statements lists every field, enum value and call, one line each.
type statements map[string]bool

func (said statements) message(m protoreflect.MessageDescriptor) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := f.Kind().String()
		if f.Message() != nil && !f.IsMap() {
			kind = string(f.Message().FullName())
		}
		if f.Enum() != nil {
			kind = string(f.Enum().FullName())
		}
		oneof := ""
		if of := f.ContainingOneof(); of != nil {
			oneof = string(of.Name())
		}
		said[fmt.Sprintf("%s = %d %s %s %s", f.FullName(), f.Number(), f.Cardinality(), kind, oneof)] = true
	}
	said.enums(m.Enums())
	for i := range m.Messages().Len() {
		said.message(m.Messages().Get(i))
	}
}

func (said statements) enums(all protoreflect.EnumDescriptors) {
	for i := range all.Len() {
		for j := range all.Get(i).Values().Len() {
			v := all.Get(i).Values().Get(j)
			said[fmt.Sprintf("%s %s = %d", all.Get(i).FullName(), v.Name(), v.Number())] = true
		}
	}
}

func of(file protoreflect.FileDescriptor) statements {
	said := statements{}
	said.enums(file.Enums())
	for i := range file.Messages().Len() {
		said.message(file.Messages().Get(i))
	}
	for i := range file.Services().Len() {
		methods := file.Services().Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			said[fmt.Sprintf("%s (%s) -> (%s) stream %v", m.FullName(), m.Input().FullName(), m.Output().FullName(), m.IsStreamingServer())] = true
		}
	}
	return said
}

// compiled is our file, through protoc.
func compiled(t *testing.T) protoreflect.FileDescriptor {
	out := filepath.Join(t.TempDir(), "csi.bin")
	protoc := exec.Command("protoc", "--proto_path=../../proto/proto", "--descriptor_set_out="+out, "csi/v1/csi.proto")
	if text, err := protoc.CombinedOutput(); err != nil {
		t.Fatalf("protoc (Debian: protobuf-compiler): %v: %s", err, text)
	}
	bytes, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(bytes, set); err != nil {
		t.Fatal(err)
	}
	file, err := build(set.GetFile()[0])
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOurProtoSaysWhatTheSpecificationSays(t *testing.T) {
	ours, theirs := of(compiled(t)), of(csi.File_csi_proto)
	for line := range theirs {
		if !ours[line] {
			t.Errorf("missing or different: %s", line)
		}
	}
	for line := range ours {
		if !theirs[line] {
			t.Errorf("not in the specification: %s", line)
		}
	}
	if len(theirs) < 300 {
		t.Errorf("only %d statements were compared", len(theirs))
	}
}

// build makes a descriptor of a file whose imports are those of protobuf itself.
func build(file *descriptorpb.FileDescriptorProto) (protoreflect.FileDescriptor, error) {
	return protodesc.NewFile(file, protoregistry.GlobalFiles)
}
