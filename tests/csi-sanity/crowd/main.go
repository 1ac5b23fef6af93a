// Command crowd asks a driver for many volumes at once, as the sidecars of a busy cluster do: each is created, published,
// staged, written, read and deleted again. What a caller would ask again is asked again.
//
//	crowd --endpoint SOCKET --node SITE/NODE --dir DIR --volumes 200 [--parameters KEY=VALUE,…]
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	sizeBytes  = 16 << 20
	blockBytes = 4096
	// Each so manieth has a filesystem, the others are raw.
	filesystemEach = 10
	// Of one call, and of one volume's step with all its calls.
	callPatience = 60 * time.Second
	stepPatience = 5 * time.Minute
)

type caller struct {
	controller csi.ControllerClient
	node       csi.NodeClient
	nodeID     string
	dir        string
	parameters map[string]string
	again      atomic.Int64
}

type volume struct {
	index   int
	id      string
	context map[string]string
}

// passing says what a caller answers by asking again.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return true
	}
	return false
}

func (c *caller) retried(call func(context.Context) error) error {
	end := time.Now().Add(stepPatience)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), callPatience)
		err := call(ctx)
		cancel()
		if err == nil || !passing(err) || time.Now().After(end) {
			return err
		}
		c.again.Add(1)
		time.Sleep(pause)
	}
}

func (v *volume) capability() *csi.VolumeCapability {
	capability := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
	if v.filesystem() {
		capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}}
	}
	return capability
}

func (v *volume) filesystem() bool { return v.index%filesystemEach == 0 }

func (c *caller) staging(v *volume) string {
	return filepath.Join(c.dir, fmt.Sprint("staging-", v.index))
}
func (c *caller) target(v *volume) string {
	return filepath.Join(c.dir, fmt.Sprint("target-", v.index))
}

func (c *caller) create(v *volume) error {
	return c.retried(func(ctx context.Context) error {
		answer, err := c.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name:               fmt.Sprintf("crowd-%d", v.index),
			CapacityRange:      &csi.CapacityRange{RequiredBytes: sizeBytes},
			VolumeCapabilities: []*csi.VolumeCapability{v.capability()},
			Parameters:         c.parameters,
		})
		if err == nil {
			v.id, v.context = answer.Volume.VolumeId, answer.Volume.VolumeContext
		}
		return err
	})
}

func (c *caller) attach(v *volume) error {
	var published map[string]string
	err := c.retried(func(ctx context.Context) error {
		answer, err := c.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
			VolumeId: v.id, NodeId: c.nodeID, VolumeCapability: v.capability(), VolumeContext: v.context,
		})
		if err == nil {
			published = answer.PublishContext
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.staging(v), 0o700); err != nil {
		return err
	}
	err = c.retried(func(ctx context.Context) error {
		_, err := c.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
			VolumeId: v.id, PublishContext: published, StagingTargetPath: c.staging(v), VolumeCapability: v.capability(),
			VolumeContext: v.context,
		})
		return err
	})
	if err != nil {
		return err
	}
	return c.retried(func(ctx context.Context) error {
		_, err := c.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v.id, PublishContext: published, StagingTargetPath: c.staging(v), TargetPath: c.target(v),
			VolumeCapability: v.capability(), VolumeContext: v.context,
		})
		return err
	})
}

func (c *caller) page(v *volume) (path string, content []byte) {
	path = c.target(v)
	if v.filesystem() {
		path = filepath.Join(path, "page")
	}
	return path, bytes.Repeat([]byte(fmt.Sprintf("volume %08d\n", v.index)), blockBytes/16)
}

func (c *caller) write(v *volume) error {
	path, content := c.page(v)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

func (c *caller) check(v *volume) error {
	path, content := c.page(v)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	found := make([]byte, len(content))
	if _, err := file.ReadAt(found, 0); err != nil {
		return err
	}
	if !bytes.Equal(found, content) {
		return fmt.Errorf("%s holds %q", path, found[:32])
	}
	return nil
}

func (c *caller) detach(v *volume) error {
	err := c.retried(func(ctx context.Context) error {
		_, err := c.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: c.target(v)})
		return err
	})
	if err != nil {
		return err
	}
	err = c.retried(func(ctx context.Context) error {
		_, err := c.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: c.staging(v)})
		return err
	})
	if err != nil {
		return err
	}
	return c.retried(func(ctx context.Context) error {
		_, err := c.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: c.nodeID})
		return err
	})
}

func (c *caller) remove(v *volume) error {
	return c.retried(func(ctx context.Context) error {
		_, err := c.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id})
		return err
	})
}

// all takes one step with every volume at once.
func all(volumes []*volume, what string, step func(*volume) error) error {
	begun := time.Now()
	failed := make([]error, len(volumes))
	var group sync.WaitGroup
	for i, v := range volumes {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := step(v); err != nil {
				failed[i] = fmt.Errorf("volume %d, %s: %w", v.index, what, err)
			}
		}()
	}
	group.Wait()
	fmt.Printf("crowd: %d volumes, %s: %.1f s\n", len(volumes), what, time.Since(begun).Seconds())
	return errors.Join(failed...)
}

func run() error {
	var c caller
	endpoint := flag.String("endpoint", "", "the driver's socket")
	flag.StringVar(&c.nodeID, "node", "", "the node to publish on: this machine")
	flag.StringVar(&c.dir, "dir", "", "a folder for what is mounted")
	count := flag.Int("volumes", 200, "how many")
	parameters := flag.String("parameters", "", "of the StorageClass: KEY=VALUE;KEY=VALUE")
	flag.Parse()
	c.parameters = map[string]string{}
	for _, pair := range strings.Split(*parameters, ";") {
		if key, value, is := strings.Cut(pair, "="); is {
			c.parameters[key] = value
		}
	}
	connection, err := grpc.NewClient("unix://"+*endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"))
	if err != nil {
		return err
	}
	c.controller, c.node = csi.NewControllerClient(connection), csi.NewNodeClient(connection)

	volumes := make([]*volume, *count)
	for i := range volumes {
		volumes[i] = &volume{index: i}
	}
	steps := []struct {
		what string
		step func(*volume) error
	}{
		{"created", c.create}, {"attached", c.attach}, {"written", c.write}, {"read", c.check}, {"detached", c.detach}, {"deleted", c.remove},
	}
	for _, s := range steps {
		if err := all(volumes, s.what, s.step); err != nil {
			return err
		}
	}
	fmt.Printf("crowd: %d calls were asked again\n", c.again.Load())
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "crowd:", err)
		os.Exit(1)
	}
}
