/* A V4L2 camera for tests: preloaded, it answers the ioctls on the file named by V4L2_CAMERA as a driver would, with the
 * kernel's own structures. MODE "uvc": two formats with sizes and rates; "range": one size range; "m2m"; "metadata":
 * a camera's second node; "endless": a list of formats that does not end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int is(const char *mode) { return strcmp(getenv("MODE"), mode) == 0; }

static int ours(int fd) {
  struct stat a, b;
  return fstat(fd, &a) == 0 && stat(getenv("V4L2_CAMERA"), &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static int fail(int code) { errno = code; return -1; }

static int sizes(struct v4l2_frmsizeenum *s) {
  static const unsigned wide[] = {640, 1920}, high[] = {480, 1080};
  if (is("range")) {
    if (s->index) return fail(EINVAL);
    s->type = V4L2_FRMSIZE_TYPE_STEPWISE;
    s->stepwise = (struct v4l2_frmsize_stepwise){32, 4056, 2, 16, 3040, 2};
    return 0;
  }
  if (s->index > (s->pixel_format == V4L2_PIX_FMT_MJPEG)) return fail(EINVAL);
  s->type = V4L2_FRMSIZE_TYPE_DISCRETE;
  s->discrete.width = wide[s->index];
  s->discrete.height = high[s->index];
  return 0;
}

static int rates(struct v4l2_frmivalenum *i) {
  if (i->index > 1 || is("range")) return fail(EINVAL);
  i->type = V4L2_FRMIVAL_TYPE_DISCRETE;
  i->discrete = (struct v4l2_fract){i->index ? 2 : 1, i->width == 640 ? 60 : 30};
  return 0;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (!ours(fd)) return ((int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
  if (request == VIDIOC_QUERYCAP) {
    struct v4l2_capability *c = argument;
    strcpy((char *)c->driver, "uvcvideo");
    strcpy((char *)c->card, "C\xc3\xa1mara 1");
    strcpy((char *)c->bus_info, "usb-0000:00:14.0-1");
    c->device_caps = is("m2m") ? V4L2_CAP_VIDEO_M2M : is("metadata") ? V4L2_CAP_META_CAPTURE : V4L2_CAP_VIDEO_CAPTURE;
    c->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_META_CAPTURE | c->device_caps | V4L2_CAP_DEVICE_CAPS;
    return 0;
  }
  if (request == VIDIOC_ENUM_FMT) {
    struct v4l2_fmtdesc *f = argument;
    if (f->type != V4L2_BUF_TYPE_VIDEO_CAPTURE || (f->index > 1 && !is("endless"))) return fail(EINVAL);
    f->pixelformat = is("range") ? V4L2_PIX_FMT_SRGGB10P : f->index ? V4L2_PIX_FMT_MJPEG : V4L2_PIX_FMT_YUYV;
    f->flags = f->index ? V4L2_FMT_FLAG_COMPRESSED : 0;
    strcpy((char *)f->description, f->index ? "Motion-JPEG" : "YUYV 4:2:2");
    return 0;
  }
  if (request == VIDIOC_ENUM_FRAMESIZES) return sizes(argument);
  if (request == VIDIOC_ENUM_FRAMEINTERVALS) return rates(argument);
  return fail(ENOTTY);
}
